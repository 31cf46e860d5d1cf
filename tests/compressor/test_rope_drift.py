"""Keys that are rotated again and again are rounded each time: how far they drift, as docs/sessions.md says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kvpress_video.compressor.rope import Rope

HEAD, SQUEEZES, LIMIT = 128, 200, 32_768
ROPE = Rope(
    1e6 ** (-torch.arange(0, HEAD, 2) / HEAD), torch.repeat_interleave(torch.arange(3), torch.tensor([16, 24, 24]))
)


def one_run(places: Tensor) -> Tensor:
    """Frames that no text interrupts: half of their time is left by each squeeze."""
    return places * torch.tensor([0.5, 1, 1])


def behind_text(places: Tensor) -> Tensor:
    """Frames behind others: all of a run moves up by whole positions."""
    return (places - torch.ceil(places * 0.02)).clamp(min=0)


def drift(dtype: torch.dtype, squeeze: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Relative error of each key after each squeeze, against one rotation in fp32."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(300, HEAD, generator=draw).to(dtype)
    start = (LIMIT / 2 * (1 + torch.rand(300, 1, generator=draw))).expand(-1, 3)
    keys, places, errors = first, start, []
    for _ in range(SQUEEZES):
        target = squeeze(places)
        keys, places = ROPE.rotate(keys, target - places), target
        exact = ROPE.rotate(first.float(), places - start)
        errors.append((keys.float() - exact).norm(dim=-1) / exact.norm(dim=-1))
    return errors


@pytest.mark.parametrize(
    ("dtype", "mean", "most"), [(torch.bfloat16, 0.004, 0.008), (torch.float16, 0.0006, 0.0012)], ids=str
)
def test_drift_within_a_run_ends(dtype: torch.dtype, mean: float, most: float) -> None:
    """Moves that are smaller than a key's last digit change nothing any more."""
    errors = drift(dtype, one_run)
    assert 0 < errors[-1].mean() < mean
    assert errors[-1].max() < most
    assert errors[-1].mean() < 1.1 * errors[49].mean()


@pytest.mark.parametrize(
    ("dtype", "mean", "most"), [(torch.bfloat16, 0.06, 0.12), (torch.float16, 0.0075, 0.013)], ids=str
)
def test_drift_of_runs_that_keep_moving(dtype: torch.dtype, mean: float, most: float) -> None:
    errors = drift(dtype, behind_text)
    assert errors[9].mean() < mean / 6
    assert errors[-1].mean() < mean
    assert errors[-1].max() < most
