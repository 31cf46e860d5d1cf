"""InternVL: a class token per frame in the vision tower, 2×2 patches per token, frame numbers in the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .base import ImportanceSink, StandbySettings
from .frame_labels import FrameLabel
from .image_frames import ImageFrames
from .standby_attention import watch_square


class InternVL(ImageFrames):
    """InternVL: one line `Frame1: <img>…</img>` per frame; tiles of a split image are adjacent."""

    model_types = ("internvl",)
    label = FrameLabel(least=5, most=12, first=5)  # </img> \n Frame 1 2 3 : ␣ <img>
    label_closes = 2  # </img> \n

    def tokens_along(self, patches: int) -> int:
        return int(patches * self.config.downsample_ratio)

    def images(self, arguments: Mapping[str, Any]) -> Tensor:
        pixels: Tensor = arguments["pixel_values"]
        return pixels

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        layer = self.config.vision_feature_layer
        last = max(layer) if isinstance(layer, (list, tuple)) else layer
        block = self.inner.vision_tower.encoder.layer[last if last < 0 else last - 1]
        return [watch_square(block.attention, block.layernorm_before, self.tokens_along, settings, report)]
