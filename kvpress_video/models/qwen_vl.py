"""Qwen2-VL and Qwen2.5-VL: one vision transformer over patches in 2×2 merge blocks, M-RoPE in contiguous sections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind
from .base import Adapter, FramePixels, ImportanceSink, StandbySettings, demand
from .items import MediaItem
from .patch_merging import join, spatial, summed, turned
from .standby_attention import patch_importance, surrogate_queries

_ARGUMENTS = {Kind.IMAGE: ("pixel_values", "image_grid_thw"), Kind.VIDEO: ("pixel_values_videos", "video_grid_thw")}


class QwenVL(Adapter):
    """Qwen2-VL and Qwen2.5-VL; base of families with the same layout of patches."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl")

    @property
    def placeholders(self) -> Mapping[Kind, int]:
        return {Kind.IMAGE: self.config.image_token_id, Kind.VIDEO: self.config.video_token_id}

    @property
    def frames_per_step(self) -> int:  # type: ignore[override]
        steps: int = self.config.vision_config.temporal_patch_size
        return steps

    def temporal_offsets(self, grid: Grid, seconds: Sequence[float], steps: Sequence[int]) -> list[float]:
        rate = getattr(self.config.vision_config, "tokens_per_second", None)
        return [float(step) for step in steps] if rate is None else [math.floor(time * rate) for time in seconds]

    @property
    def visual(self) -> Any:
        """Vision tower."""
        return self.inner.visual

    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        return [MediaItem(self._merged(grid)) for grid in arguments[_ARGUMENTS[kind][1]].tolist()]

    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels]:
        pixels, grids = (arguments[name] for name in _ARGUMENTS[kind])
        parts = pixels.split(grids.prod(-1).tolist())
        return [
            FramePixels(self._merged(grid), part.unflatten(0, (grid[0], -1)))
            for grid, part in zip(grids.tolist(), parts, strict=True)
        ]

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        pixels, grids = _ARGUMENTS[kind]
        merge = self.visual.spatial_merge_size
        sizes = [(part.grid.frames, merge * part.grid.rows, merge * part.grid.columns) for part in frames]
        return {
            **arguments,
            pixels: torch.cat([part.pixels.flatten(0, 1) for part in frames]),
            grids: arguments[grids].new_tensor(sizes),
        }

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        return join(outputs, grids, order)

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        encoded = self.inner.get_video_features(*demand(inputs, *_ARGUMENTS[Kind.VIDEO]))
        return torch.cat(getattr(encoded, "pooler_output", encoded)).to(self.text_model.dtype), None

    def _merged(self, grid: Sequence[int]) -> Grid:
        merge = self.visual.spatial_merge_size
        return Grid(grid[0], grid[1] // merge, grid[2] // merge)

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        grids: list[Grid] = []

        def before_tower(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
            grids[:] = [self._merged(grid) for grid in given.tolist()]

        @torch.no_grad()
        def before_attention(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            projected = module.qkv(hidden).reshape(len(hidden), 3, module.num_heads, -1).unbind(1)
            queries, keys = (turned(states, kwargs["position_embeddings"]) for states in projected[:2])
            learned = None if settings.tokens is None else self._learned(module, settings.tokens.to(hidden))
            merge, parts, start = self.visual.spatial_merge_size, [], 0
            for grid in grids:
                stop = start + grid.tokens * merge**2
                order = self.unit_order(grid).to(hidden.device)
                q, k = (spatial(states[start:stop], grid, merge, order) for states in (queries, keys))
                rows, columns = (side * merge for side in grid[1:])
                standby = surrogate_queries(q, settings.n, rows, columns) if learned is None else learned
                parts.append(summed(patch_importance(standby, k), grid, merge))
                start = stop
            report(torch.cat(parts))

        last = self.visual.blocks[self._last_full_block()].attn
        return [
            self.visual.register_forward_pre_hook(before_tower, with_kwargs=True),
            last.register_forward_pre_hook(before_attention, with_kwargs=True),
        ]

    def _last_full_block(self) -> int:
        full = getattr(self.visual, "fullatt_block_indexes", None)
        return max(full) if full else len(self.visual.blocks) - 1

    def _learned(self, attention: Any, tokens: Tensor) -> Tensor:
        block = self.visual.blocks[self._last_full_block()]
        states = attention.qkv(block.norm1(tokens))
        return states.reshape(1, len(tokens), 3, attention.num_heads, -1)[:, :, 0].transpose(1, 2)

    def unit_order(self, grid: Grid) -> Tensor:
        """Compute the token at each place of the tower's sequence, (grid.tokens,) int64, by window within frames."""
        ordinal = torch.arange(grid.tokens)
        window = getattr(self.visual, "window_size", None)
        if window is None:
            return ordinal
        side = window // self.visual.spatial_merge_size // self.visual.patch_size
        frame, patch = ordinal // grid.patches, ordinal % grid.patches
        row, column = patch // grid.columns, patch % grid.columns
        across = -(-grid.columns // side)
        down = -(-grid.rows // side)
        return ((frame * down + row // side) * across + column // side).argsort(stable=True)
