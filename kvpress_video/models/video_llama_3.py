"""Video-LLaMA 3: one vision transformer over all patches, 1-D positions, and videos with omitted tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind
from ..video.frames import process
from .base import Adapter, FramePixels, ImportanceSink, StandbySettings, demand
from .items import MediaItem
from .patch_merging import join, spatial, summed, turned
from .standby_attention import patch_importance, surrogate_queries
from .streamed_frames import FrameText

_ARGUMENTS = {
    Kind.IMAGE: ("pixel_values", "image_grid_thw", "image_merge_sizes"),
    Kind.VIDEO: ("pixel_values_videos", "video_grid_thw", "video_merge_sizes"),
}


class VideoLlama3(Adapter):
    """Video-LLaMA 3, whose processor omits tokens that hardly differ from the preceding frame.

    The remaining tokens (`use_token_compression`) keep their frame, row and column.
    """

    model_types = ("video_llama_3",)
    labelled = True
    frame_separator = ","
    omits_tokens = True

    @property
    def placeholders(self) -> Mapping[Kind, int]:
        return {Kind.IMAGE: self.config.image_token_id, Kind.VIDEO: self.config.video_token_id}

    def shown(self, arguments: Mapping[str, Any]) -> Mapping[Kind, Tensor]:
        mask = arguments.get("video_compression_mask")
        return {} if mask is None else {Kind.VIDEO: mask}

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        """Prepare frames. The processor divides its limit of pixels by their number; here it is that of one frame.

        It compares each frame with the one before it in the same call: the first one keeps all of its tokens.
        """
        size = dict(processor.video_processor.size)
        return process(processor, frames, size=size | {"longest_edge": size["longest_edge"] * len(frames)})

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        return [FrameText(f"Time {time:.1f}s:") for time in seconds]

    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        _, grids, merges = (arguments[name] for name in _ARGUMENTS[kind])
        return [MediaItem(grid) for grid in _merged(grids, merges)]

    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels]:
        pixels, grids, merges = (arguments[name] for name in _ARGUMENTS[kind])
        parts = pixels.split(grids.prod(-1).tolist())
        return [
            FramePixels(grid, part.unflatten(0, (grid.frames, -1)))
            for grid, part in zip(_merged(grids, merges), parts, strict=True)
        ]

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        pixels, grids, merges = _ARGUMENTS[kind]
        sides = [math.isqrt(part.pixels.shape[1] // part.grid.patches) for part in frames]
        pairs = zip([part.grid for part in frames], sides, strict=True)
        sizes = [(grid.frames, merge * grid.rows, merge * grid.columns) for grid, merge in pairs]
        return {
            **arguments,
            pixels: torch.cat([part.pixels.flatten(0, 1) for part in frames]),
            grids: arguments[grids].new_tensor(sizes),
            merges: arguments[merges].new_tensor(sides),
        }

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        joined: Any = join(outputs, grids, order)
        if isinstance(outputs[0], dict):  # an attribute, because the type may have no such field
            joined.pooler_output = join([each.pooler_output for each in outputs], grids, order)
        return joined

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        encoded = self.inner.get_video_features(*demand(inputs, *_ARGUMENTS[Kind.VIDEO]))
        return torch.cat(getattr(encoded, "pooler_output", encoded)).to(self.text_model.dtype), None

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        tower = self.inner.vision_model
        block = tower.encoder.layers[-1]
        items: list[tuple[Grid, int]] = []

        def before_tower(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            merges = kwargs["merge_sizes"]
            items[:] = zip(_merged(kwargs["grid_thw"], merges), merges.tolist(), strict=True)

        @torch.no_grad()
        def before_attention(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            queries, keys = (
                turned(project(hidden).unflatten(-1, (module.num_heads, -1)), kwargs["position_embeddings"])
                for project in (module.q_proj, module.k_proj)
            )
            learned = None if settings.tokens is None else _learned(block, settings.tokens.to(hidden))
            parts, start = [], 0
            for grid, merge in items:
                stop = start + grid.tokens * merge**2
                q, k = (spatial(states[start:stop], grid, merge) for states in (queries, keys))
                rows, columns = (side * merge for side in grid[1:])
                standby = surrogate_queries(q, settings.n, rows, columns) if learned is None else learned
                parts.append(summed(patch_importance(standby, k), grid, merge))
                start = stop
            report(torch.cat(parts))

        return [
            tower.register_forward_pre_hook(before_tower, with_kwargs=True),
            block.self_attn.register_forward_pre_hook(before_attention, with_kwargs=True),
        ]


def _merged(grids: Tensor, merges: Tensor) -> list[Grid]:
    """Compute the visual tokens of each item from its patches, (items, 3), and patches per token side, (items,)."""
    pairs = zip(grids.tolist(), merges.tolist(), strict=True)
    return [Grid(frames, rows // merge, columns // merge) for (frames, rows, columns), merge in pairs]


def _learned(block: Any, tokens: Tensor) -> Tensor:
    attention = block.self_attn
    states = attention.q_proj(block.layer_norm1(tokens))
    return states.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)[None]
