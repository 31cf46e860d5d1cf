"""Qwen3-VL, dense and mixture of experts: timestamps between frames, and deepstack features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..video.frames import process
from .qwen_vl import QwenVL
from .streamed_frames import FrameText


class TimestampedVL(QwenVL):
    """Families that write the time of each step: Qwen2.5-VL without windows."""

    model_types: ClassVar[tuple[str, ...]] = ()
    interleaved_rope = True
    labelled = True
    label_closes = 1  # <|vision_end|>

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        """Prepare frames. The processor limits the pixels of a whole video of at least one step; here the limits apply
        to one step.
        """
        whole = [*frames, *[frames[-1]] * (-len(frames) % self.frames_per_step)]
        steps, size = len(whole) // self.frames_per_step, dict(processor.video_processor.size)
        return process(processor, whole, size={edge: steps * pixels for edge, pixels in size.items()})

    def video_markup(self, processor: Any) -> FrameText:
        if hasattr(processor, "replace_video_token"):  # since transformers 5 the marks around a video stay
            return FrameText()
        return FrameText(processor.vision_start_token, processor.vision_end_token)

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        start, end = processor.vision_start_token, processor.vision_end_token
        return [FrameText(f"<{time:.1f} seconds>{start}", end) for time in seconds]

    def step_seconds(self, times: Sequence[float]) -> list[float]:
        """Return the mean of the first and the last frame of each step, which the processor writes."""
        step = self.frames_per_step
        parts = (times[start : start + step] for start in range(0, len(times), step))
        return [(part[0] + part[-1]) / 2 for part in parts]


class Qwen3VL(TimestampedVL):
    """Qwen3-VL: features of earlier vision blocks are added to early text layers."""

    model_types = ("qwen3_vl", "qwen3_vl_moe")

    def aligned_inputs(self, aligned: Tensor, visual: Tensor) -> dict[str, Any]:
        levels = len(self.config.vision_config.deepstack_visual_indexes)
        return {"visual_pos_masks": visual, "deepstack_visual_embeds": list(aligned.chunk(levels, dim=-1))}
