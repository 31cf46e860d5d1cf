"""Arguments of a text model that belong to single tokens: deepstack features, and inputs per layer.

Deepstack features are one tensor per level with rows for visual tokens only, inputs per layer (Gemma 3n) one tensor
(batch, n, layers, d).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ARGUMENTS = (("deepstack_visual_embeds", "visual_pos_masks"), ("deepstack_features", "vision_mask"))
"""Names of deepstack features, a list or a mapping from layer indices, and of the mask of visual tokens."""
_PER_LAYER = "per_layer_inputs"


def take(arguments: Mapping[str, Any]) -> Tensor | None:
    """Read the features of all tokens, (batch, n, levels·d), those of deepstack zero for text; None without any."""
    for features, mask in _ARGUMENTS:
        if arguments.get(features):
            levels, where = _levels(arguments[features]), arguments[mask]
            where = where.squeeze(-1) if where.ndim == 3 else where
            aligned = levels[0].new_zeros(*where.shape, len(levels) * levels[0].shape[-1])
            aligned[where] = torch.cat(levels, dim=-1)
            return aligned
    inputs = arguments.get(_PER_LAYER)
    return None if inputs is None else inputs.flatten(2)


def stacked(encoded: Any) -> Tensor | None:
    """Read the features of a result of the vision tower, (tokens, levels·d); None without any."""
    levels = getattr(encoded, "deepstack_features", None)
    if not levels:
        return None
    return torch.cat([level if isinstance(level, Tensor) else torch.cat(list(level)) for level in levels], dim=-1)


def put(arguments: dict[str, Any], aligned: Tensor, visual: Tensor) -> None:
    """Replace the features in the arguments.

    Args:
        arguments: arguments of the text model, changed in place.
        aligned: features of all tokens, (batch, m, levels·d).
        visual: visual tokens among them, (batch, m) bool.
    """
    for features, mask in _ARGUMENTS:
        if known := arguments.get(features):
            parts = aligned[visual].chunk(len(known), dim=-1)
            arguments[features] = dict(zip(known, parts, strict=True)) if isinstance(known, Mapping) else list(parts)
            arguments[mask] = visual if arguments[mask].ndim == 2 else visual[..., None]
    if arguments.get(_PER_LAYER) is not None:
        arguments[_PER_LAYER] = aligned.unflatten(-1, arguments[_PER_LAYER].shape[2:])


def _levels(features: Any) -> list[Tensor]:
    return list(features.values() if isinstance(features, Mapping) else features)
