"""Qwen3-VL, dense and mixture of experts: timestamps between frames, deepstack features beside the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..entries import Entries, Kind
from .qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    """Qwen3-VL: as Qwen2.5-VL without windows, and with features of earlier vision blocks added to early layers."""

    model_types = ("qwen3_vl", "qwen3_vl_moe")
    interleaved_rope = True

    def take_aligned(self, arguments: Mapping[str, Any]) -> Tensor | None:
        levels = arguments.get("deepstack_visual_embeds")
        if levels is None:
            return None
        where = arguments["visual_pos_masks"]
        aligned = levels[0].new_zeros(*where.shape, len(levels) * levels[0].shape[-1])
        aligned[where] = torch.cat(list(levels), dim=-1)
        return aligned

    def put_aligned(self, arguments: dict[str, Any], entries: Entries) -> None:
        if arguments.get("deepstack_visual_embeds") is None:
            return
        where = entries.kind[:, 0] > Kind.TEXT
        arguments["visual_pos_masks"] = where
        levels = entries.values[:, 0][where]
        arguments["deepstack_visual_embeds"] = list(levels.chunk(len(arguments["deepstack_visual_embeds"]), dim=-1))
