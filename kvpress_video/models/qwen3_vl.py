"""Qwen3-VL, dense and mixture of experts: timestamps between frames, and deepstack features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .base import demand
from .qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    """Qwen3-VL: Qwen2.5-VL without windows, and with features of earlier vision blocks added to early text layers."""

    model_types = ("qwen3_vl", "qwen3_vl_moe")
    interleaved_rope = True
    written_times = True
    label_closes = 1  # <|vision_end|>

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        encoded = self.inner.get_video_features(*demand(inputs, "pixel_values_videos", "video_grid_thw"))
        whole = encoded if isinstance(encoded, tuple) else (encoded.pooler_output, encoded.deepstack_features)
        levels = [level if isinstance(level, Tensor) else torch.cat(level) for level in whole[1]]
        dtype = self.text_model.dtype
        return torch.cat(whole[0]).to(dtype), torch.cat(levels, dim=-1).to(dtype)

    def take_aligned(self, arguments: Mapping[str, Any]) -> Tensor | None:
        levels = arguments.get("deepstack_visual_embeds")
        if levels is None:
            return None
        where = arguments["visual_pos_masks"]
        aligned = levels[0].new_zeros(*where.shape, len(levels) * levels[0].shape[-1])
        aligned[where] = torch.cat(list(levels), dim=-1)
        return aligned

    def put_aligned(self, arguments: dict[str, Any], aligned: Tensor, visual: Tensor) -> None:
        if arguments.get("deepstack_visual_embeds") is None:
            return
        levels = len(arguments["deepstack_visual_embeds"])
        arguments["visual_pos_masks"] = visual
        arguments["deepstack_visual_embeds"] = list(aligned[visual].chunk(levels, dim=-1))
