"""Rotary position embeddings outside the model: rotate keys to a position, by a difference, or back to none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedModelError

_FIXED_TYPES = {"default", "mrope", "linear", "llama3", "yarn", "proportional"}


@dataclass(frozen=True)
class Rope:
    """Rotation that a text model applies to its keys, in half-split ("rotate half") layout.

    Attributes:
        frequencies: inverse frequencies in radians per position, (rotary_dim / 2,) fp32.
        axes: index into (t, h, w) of each frequency's position, (rotary_dim / 2,) int64; all zeros for 1-D positions.
        scale: attention scaling that the model multiplies into cos and sin (YaRN); 1 for most models.
    """

    frequencies: Tensor
    axes: Tensor
    scale: float = 1.0

    def rotate(self, states: Tensor, positions: Tensor) -> Tensor:
        """Rotate states by positions: R(positions)·states. Norms do not change.

        Rotations add up: a difference of positions moves rotated keys, and a negative position un-rotates them.

        Args:
            states: (..., n, head_dim); dimensions beyond rotary_dim are unchanged.
            positions: (t, h, w), (..., n, 3), broadcastable against states; may be fractional.

        Returns:
            The rotated states in the shape and dtype of `states`, computed in fp32.
        """
        half = self.frequencies.shape[0]
        angles = positions[..., self.axes.to(positions.device)].float() * self.frequencies.to(positions.device)
        cos, sin = angles.cos(), angles.sin()
        turned, rest = states[..., : 2 * half].float(), states[..., 2 * half :]
        first, second = turned[..., :half], turned[..., half:]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(states.dtype)
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned

    @classmethod
    def of(cls, text_model: Any, interleaved: bool = False) -> Rope:
        """Read the rotation of a text model from its modules and configuration.

        Args:
            text_model: a decoder with `rotary_emb` and `config`. If its layer types rotate differently, the rotation of
                the full-attention layers is read.
            interleaved: whether M-RoPE sections alternate frequency by frequency instead of being contiguous.

        Raises:
            UnsupportedModelError: the rotation depends on the sequence length (dynamic, longrope), so cached keys
                cannot be moved.
        """
        rotary, config = text_model.rotary_emb, text_model.config
        settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        own = "full_attention_" if hasattr(rotary, "full_attention_inv_freq") else ""
        settings = settings.get("full_attention", settings)
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in _FIXED_TYPES:
            raise UnsupportedModelError(
                f"The rope type {kind!r} changes with the sequence length, so cached keys cannot be re-rotated: "
                "use positions='keep' and a method that does not merge keys."
            )
        frequencies = getattr(rotary, f"{own}inv_freq").detach().float()
        sections = getattr(rotary, "mrope_section", None) or settings.get("mrope_section")
        axes = _axes(len(frequencies), sections, interleaved).to(frequencies.device)
        return cls(frequencies, axes, float(getattr(rotary, f"{own}attention_scaling")))


def _axes(size: int, sections: list[int] | None, interleaved: bool) -> Tensor:
    if sections is None:
        return torch.zeros(size, dtype=torch.long)
    if not interleaved:
        return torch.repeat_interleave(torch.arange(3), torch.tensor(sections))
    ordinal = torch.arange(size)
    axis = ordinal % 3
    return torch.where(ordinal < 3 * torch.tensor(sections)[axis], axis, 0)
