"""Families whose vision tower reads one sequence of patches of all items, in merge blocks within each frame."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind
from .base import Adapter, FramePixels, ImportanceSink, StandbySettings
from .items import MediaItem
from .joining import join
from .patch_merging import spatial, summed, turned
from .standby_attention import patch_importance, surrogate_queries


class VisionBlock(NamedTuple):
    """The vision block whose attention measures importance: the attention and the norm before it."""

    attention: Any
    norm: nn.Module


class PatchRows(Adapter):
    """Adapter base for towers over patch rows, with the patches of each item in `*_grid_thw`.

    The inputs of a kind (`vision_inputs`) are pixels, grids and optionally the patches along a token's side, per item.
    """

    vision_inputs: ClassVar[Mapping[Kind, tuple[str, ...]]] = {
        Kind.IMAGE: ("pixel_values", "image_grid_thw"),
        Kind.VIDEO: ("pixel_values_videos", "video_grid_thw"),
    }

    @property
    @abstractmethod
    def visual(self) -> Any:
        """Vision tower, which is called with `grid_thw`."""

    @property
    @abstractmethod
    def block(self) -> VisionBlock:
        """Last vision block that attends within whole frames."""

    @abstractmethod
    def queries_and_keys(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        """Project normalised states, (patches, d), to queries and keys, (patches, heads, head_dim) each."""

    def unit_order(self, grid: Grid) -> Tensor | None:
        """Return the token at each place of the tower's sequence, (grid.tokens,) int64; None for row-major order."""
        return None

    def merges(self, merge_sizes: Tensor | None, items: int) -> list[int]:
        """Return the patches along a token's side, per item."""
        return [self.visual.spatial_merge_size] * items if merge_sizes is None else merge_sizes.tolist()

    def _grids(self, grids: Tensor, merge_sizes: Tensor | None) -> list[Grid]:
        pairs = zip(grids.tolist(), self.merges(merge_sizes, len(grids)), strict=True)
        return [Grid(frames, rows // merge, columns // merge) for (frames, rows, columns), merge in pairs]

    def _given(self, kind: Kind, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        pixels, grids, *merges = (arguments[name] for name in self.vision_inputs[kind])
        return pixels, grids, merges[0] if merges else None

    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        return [MediaItem(grid) for grid in self._grids(*self._given(kind, arguments)[1:])]

    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels]:
        pixels, grids, merges = self._given(kind, arguments)
        parts = zip(self._grids(grids, merges), pixels.split(grids.prod(-1).tolist()), strict=True)
        return [FramePixels(grid, part.unflatten(0, (grid.frames, -1))) for grid, part in parts]

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        pixels, grids, *merges = self.vision_inputs[kind]
        sides = [math.isqrt(part.pixels.shape[1] // part.grid.patches) for part in frames]
        pairs = zip([part.grid for part in frames], sides, strict=True)
        sizes = [(grid.frames, side * grid.rows, side * grid.columns) for grid, side in pairs]
        return {
            **arguments,
            pixels: torch.cat([part.pixels.flatten(0, 1) for part in frames]),
            grids: arguments[grids].new_tensor(sizes),
            **{name: arguments[name].new_tensor(sides) for name in merges},
        }

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        return join(outputs, grids, order)

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        items: list[tuple[Grid, int]] = []

        def before_tower(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            given, sides = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1], kwargs.get("merge_sizes")
            items[:] = zip(self._grids(given, sides), self.merges(sides, len(given)), strict=True)

        @torch.no_grad()
        def before_attention(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            projected = self.queries_and_keys(module, hidden)
            queries, keys = (turned(states, kwargs["position_embeddings"]) for states in projected)
            learned = None
            if settings.tokens is not None:
                tokens = self.block.norm(settings.tokens.to(hidden))
                learned = self.queries_and_keys(module, tokens)[0].transpose(0, 1)[None]
            parts, start = [], 0
            for grid, merge in items:
                stop = start + grid.tokens * merge**2
                order = self.unit_order(grid)
                order = None if order is None else order.to(hidden.device)
                q, k = (spatial(states[start:stop], grid, merge, order) for states in (queries, keys))
                rows, columns = (side * merge for side in grid[1:])
                standby = surrogate_queries(q, settings.n, rows, columns) if learned is None else learned
                parts.append(summed(patch_importance(standby, k), grid, merge))
                start = stop
            report(torch.cat(parts))

        return [
            self.visual.register_forward_pre_hook(before_tower, with_kwargs=True),
            self.block.attention.register_forward_pre_hook(before_attention, with_kwargs=True),
        ]
