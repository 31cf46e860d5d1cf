"""LLaVA-OneVision and LLaVA-NeXT-Video: a CLIP or SigLIP vision tower, pooled patches, 1-D positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind
from .base import Adapter, FramePixels, ImportanceSink, StandbySettings
from .items import MediaItem
from .standby_attention import square_block, watch_square


class LlavaNextVideo(Adapter):
    """LLaVA-NeXT-Video: frames·(h/p·w/p)/4 tokens per video; an any-resolution image is one row of tokens."""

    model_types = ("llava_next_video",)
    video_newlines: ClassVar[int] = 0

    @property
    def _patch_side(self) -> int:
        vision = self.config.vision_config
        return vision.image_size // vision.patch_size

    @property
    def _token_side(self) -> int:
        return self._tokens_along(self._patch_side)

    def _tokens_along(self, patches: int) -> int:
        return patches // 2

    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        if kind is Kind.IMAGE:
            return [MediaItem(Grid(1, 1, len(feature))) for feature in features]
        videos, frames = arguments[_pixels(arguments)].shape[:2]
        return [MediaItem(Grid(frames, self._token_side, self._token_side), self.video_newlines)] * videos

    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels] | None:
        if kind is Kind.IMAGE:
            return None
        videos = arguments[_pixels(arguments)]
        grid = Grid(videos.shape[1], self._token_side, self._token_side)
        return [FramePixels(grid, video) for video in videos]

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        """Build a call in which every frame is a video, so that the first dimension of all outputs is the frame."""
        return {**arguments, _pixels(arguments): torch.cat([part.pixels for part in frames])[:, None]}

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        def by_video(frames: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(frames)).unflatten(0, (len(grids), -1))[list(order)]

        first = outputs[0]
        if isinstance(first, dict):
            patches = by_video([each.last_hidden_state for each in outputs]).flatten(0, 1)
            features = self.join([each.pooler_output for each in outputs], grids, order)
            return type(first)(last_hidden_state=patches, pooler_output=features)
        if isinstance(first, tuple):
            return tuple(by_video([frame for each in outputs for frame in each]))
        frames, tokens = by_video(outputs), grids[0].patches
        return torch.cat([frames[:, :, :tokens].flatten(1, 2), frames[:, -1, tokens:]], dim=1)  # newline last

    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        features, _ = super().encode(inputs)
        return features[: inputs["pixel_values_videos"].shape[1] * self._token_side**2], None

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        return [watch_square(square_block(self.inner, self.config), self._tokens_along, settings, report)]


class LlavaOneVision(LlavaNextVideo):
    """LLaVA-OneVision: frames·⌈side/2⌉² tokens per video, and a newline after them, which is kept as text."""

    model_types = ("llava_onevision",)
    video_newlines = 1

    def _tokens_along(self, patches: int) -> int:
        return math.ceil(patches / 2)

    def video_end(self) -> Tensor:
        newline: Tensor = self.inner.image_newline
        return newline.detach()[None]


def _pixels(arguments: Mapping[str, Any]) -> str:
    """Return the argument name of the pixels in `get_video_features`, which depends on the transformers version."""
    return "pixel_values_videos" if "pixel_values_videos" in arguments else "pixel_values"
