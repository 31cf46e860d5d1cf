"""Imitate video compression artefacts on whole batches: less colour detail, coarser frequencies."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 8


@cache
def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal 2-D DCT of an 8 × 8 block as a matrix, `(64, 64)`."""
    step = torch.arange(BLOCK, dtype=torch.float64)
    one = torch.cos(math.pi / BLOCK * (step + 0.5) * step[:, None]) * math.sqrt(2 / BLOCK)
    one[0] /= math.sqrt(2)
    return torch.kron(one, one).float().to(device)


@cache
def _coarseness(device: torch.device) -> Tensor:
    """Return the quantisation step of each frequency relative to that of the mean brightness, `(64,)`."""
    step = torch.arange(BLOCK, dtype=torch.float32, device=device)
    return (1 + (step[:, None] + step) / 6).flatten()


TO_LUMA_CHROMA = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
"""BT.601."""


def _mix(weights: tuple[tuple[float, ...], ...], planes: list[Tensor]) -> list[Tensor]:
    """Compute weighted sums of planes, one per row of weights."""
    first, second, third = planes
    return [first * a + second * b + third * c for a, b, c in weights]


def compress_like_video(video: Tensor, generator: torch.Generator) -> Tensor:
    """Pass `video` (B, T, 2, 3, H, W), 0 … 255, through an imitated encoder of random quality; 16 divides H and W."""
    batch = video.shape[0]
    device = video.device
    luma, *chroma = _mix(TO_LUMA_CHROMA, list(video.unbind(3)))
    step = 0.5 * 2 ** (5.2 * torch.rand(batch, generator=generator, device=device))
    decoded = [_quantise(luma, step)]
    for plane in chroma:
        half = functional.avg_pool2d(plane.flatten(0, 1), 2).unflatten(0, plane.shape[:2])
        decoded.append(_quantise(half, 1.2 * step).repeat_interleave(2, -1).repeat_interleave(2, -2))
    return torch.stack(_mix(TO_RGB, decoded), dim=3).clamp_(0, 255)


def _quantise(plane: Tensor, step: Tensor) -> Tensor:
    """Round the frequencies of `plane` (B, T, 2, H, W) to multiples of `step` (B,), more coarsely for high ones."""
    *lead, height, width = plane.shape
    cosines = _cosines(plane.device)
    blocks = plane.view(len(plane), -1, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    shape = blocks.shape
    size = step[:, None, None] * _coarseness(plane.device)
    rough = torch.round(blocks.reshape(len(plane), -1, BLOCK * BLOCK) @ cosines.T / size) * size @ cosines
    return rough.view(shape).transpose(3, 4).reshape(*lead, height, width)
