"""Qwen2-VL and Qwen2.5-VL: one vision transformer over patches in 2×2 merge blocks, M-RoPE in contiguous sections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..compressor.entries import Grid
from .patch_rows import PatchRows, VisionBlock


class QwenVL(PatchRows):
    """Qwen2-VL and Qwen2.5-VL; base of families with the same layout of patches."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")

    @property
    def frames_per_step(self) -> int:  # type: ignore[override]
        steps: int = self.config.vision_config.temporal_patch_size
        return steps

    def temporal_offsets(self, grid: Grid, seconds: Sequence[float], steps: Sequence[int]) -> list[float]:
        rate = getattr(self.config.vision_config, "tokens_per_second", None)
        return [float(step) for step in steps] if rate is None else [math.floor(time * rate) for time in seconds]

    @property
    def visual(self) -> Any:
        return self.inner.visual

    @property
    def block(self) -> VisionBlock:
        full = getattr(self.visual, "fullatt_block_indexes", None)
        block = self.visual.blocks[max(full) if full else -1]
        return VisionBlock(block.attn, block.norm1)

    def queries_and_keys(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys, _ = attention.qkv(states).reshape(len(states), 3, attention.num_heads, -1).unbind(1)
        return queries, keys

    def unit_order(self, grid: Grid) -> Tensor | None:
        """Return the order of windows within frames (Qwen2.5-VL)."""
        window = getattr(self.visual, "window_size", None)
        if window is None:
            return None
        side = window // self.visual.spatial_merge_size // self.visual.patch_size
        ordinal = torch.arange(grid.tokens)
        frame, patch = ordinal // grid.patches, ordinal % grid.patches
        row, column = patch // grid.columns, patch % grid.columns
        across = -(-grid.columns // side)
        down = -(-grid.rows // side)
        return ((frame * down + row // side) * across + column // side).argsort(stable=True)
