"""InternVL: a class token per frame in the vision tower, 2×2 patches per token, frame numbers in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..video.frames import process
from .frame_labels import FrameLabel
from .image_frames import ImageFrames
from .streamed_frames import FrameText


class InternVL(ImageFrames):
    """InternVL: one line `Frame1: <img>…</img>` per frame; tiles of a split image are adjacent."""

    model_types = ("internvl",)
    label = FrameLabel(least=5, most=12, first=5)  # </img> \n Frame 1 2 3 : ␣ <img>
    label_closes = 2  # </img> \n
    frame_separator = "\n"

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        inputs = process(processor, frames)
        inputs["pixel_values"] = inputs.pop("pixel_values_videos").flatten(0, 1)
        return inputs

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        start, end = processor.start_image_token, processor.end_image_token
        return [FrameText(f"Frame{number}: {start}", end) for number, _ in enumerate(seconds, first + 1)]

    def tokens_along(self, patches: int) -> int:
        return int(patches * self.config.downsample_ratio)
