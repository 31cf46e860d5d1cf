"""Gemma 3: a fixed number of tokens per image with bidirectional attention, and sliding-window layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .frame_labels import FrameLabel
from .image_frames import ImageFrames
from .streamed_frames import FrameText

_BARE = 4  # most tokens between two adjacent images: <end_of_image> \n\n \n\n <start_of_image>


@dataclass(frozen=True)
class _BareOrLabelled(FrameLabel):
    """Label format in which frames are separated by newlines only, or by a label."""

    def continues(self, ids: np.ndarray, frames: Sequence[range], image: range) -> bool:
        return image.start - frames[-1].stop <= _BARE or super().continues(ids, frames, image)


class Gemma3(ImageFrames):
    """Gemma 3: `mm_tokens_per_image` tokens per image; consecutive images are the frames of a video.

    Attention within an image is bidirectional, so no pass splits an image. Sliding-window layers keep their stock
    caches, which hold the last tokens of each row; the full-attention layers are compressed.
    """

    model_types = ("gemma3",)
    left_alone = frozenset({"sliding_attention"})
    image_blocks = True
    label = _BareOrLabelled(least=_BARE + 1, most=24)
    label_closes = 1  # <end_of_image>
    frame_separator = "\n\n\n\n"
    media = "image"

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        return processor.image_processor(images=list(frames), do_pan_and_scan=False, return_tensors="pt")

    def placeholder(self, processor: Any) -> str:
        token: str = processor.boi_token
        return token

    def video_text(self, processor: Any) -> FrameText:
        return FrameText("\n\n", "\n\n")

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        tokenizer = processor.tokenizer
        return [FrameText(tokenizer.boi_token, tokenizer.eoi_token)] * len(seconds)

    def tokens_along(self, patches: int) -> int:
        return round(self.config.mm_tokens_per_image**0.5)

    def sliding_rotation(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        local = getattr(self.text_model, "rotary_emb_local", None)  # transformers 4 has a module for each kind of layer
        rotation: tuple[Tensor, Tensor] = (
            self.text_model.rotary_emb(states, positions, "sliding_attention")
            if local is None
            else local(states, positions)
        )
        return rotation
