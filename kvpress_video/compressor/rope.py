"""Rotary positions outside the model: rotate keys by any (t, h, w), by a difference, or back to none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedModelError

_FIXED_TYPES = {"default", "mrope", "linear", "llama3", "yarn", "proportional"}


@dataclass(frozen=True)
class Rope:
    """The rotation a text model applies to its keys, in half-split ("rotate half") layout.

    Attributes:
        frequencies: inverse frequencies, (rotary_dim / 2,) fp32.
        axes: which of (t, h, w) drives each frequency, (rotary_dim / 2,) int64; all zeros for a 1-D model.
        scale: the attention scaling that the model multiplies into cos and sin (yarn); 1 for most.
    """

    frequencies: Tensor
    axes: Tensor
    scale: float = 1.0

    def rotate(self, states: Tensor, positions: Tensor) -> Tensor:
        """R(positions)·states. A difference of positions moves already rotated keys; the norm never changes.

        Args:
            states: (..., n, head_dim).
            positions: (..., n, 3), (t, h, w), broadcastable against states; may be fractional.

        Returns:
            Same shape and dtype as `states`; computed in fp32.
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
        """Read frequencies and M-RoPE sections off a text model.

        Args:
            text_model: has `rotary_emb` and `config`. Where kinds of layers rotate differently, the layers of full
                attention count.
            interleaved: whether its M-RoPE sections alternate frequency by frequency, rather than follow one another.

        Raises:
            UnsupportedModelError: the rotation depends on the sequence length (dynamic, longrope), so keys that are
                already cached cannot be moved.
        """
        rotary, config = text_model.rotary_emb, text_model.config
        settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        own = "full_attention_" if "full_attention" in settings else ""
        settings = settings.get("full_attention", settings)
        kind = settings.get("rope_type", settings.get("type", "default"))
        if kind not in _FIXED_TYPES:
            raise UnsupportedModelError(
                f"rope type {kind!r} changes with the sequence length, so cached keys cannot be re-rotated; "
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
