"""Deepstack features of a text model: one tensor per level, rows for visual tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def take(arguments: Mapping[str, Any]) -> Tensor | None:
    """Read the features of all tokens, (batch, n, levels·d), zero for text; None if there are none."""
    levels = arguments.get("deepstack_visual_embeds")
    if not levels:
        return None
    where = arguments["visual_pos_masks"]
    aligned = levels[0].new_zeros(*where.shape, len(levels) * levels[0].shape[-1])
    aligned[where] = torch.cat(list(levels), dim=-1)
    return aligned


def put(arguments: dict[str, Any], aligned: Tensor, visual: Tensor) -> None:
    """Replace the features in the arguments.

    Args:
        arguments: arguments of the text model, changed in place.
        aligned: features of all tokens, (batch, m, levels·d).
        visual: visual tokens among them, (batch, m) bool.
    """
    if not arguments.get("deepstack_visual_embeds"):
        return
    levels = len(arguments["deepstack_visual_embeds"])
    arguments["visual_pos_masks"] = visual
    arguments["deepstack_visual_embeds"] = list(aligned[visual].chunk(levels, dim=-1))
