"""The part of a model family that streams use: the preparation of frames, and the text around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..compressor.entries import Grid
from ..video.frames import process


class FrameText(NamedTuple):
    """Text that a processor writes around the visual tokens of one frame, or around all frames of a video.

    The closing of a frame consists of special tokens or is empty, so that the text after it is tokenised separately.
    """

    opens: str = ""
    closes: str = ""


class StreamedFrames:
    """The part of an adapter that streams use.

    Attributes:
        frames_per_step: video frames per temporal step.
        labelled: whether text is written around each frame; positions then count tokens.
        frame_separator: text between two frames of a video, after the closing of one and before the opening of the
            next.
        omits_tokens: whether the processor may omit visual tokens of a frame.
        media: type of a video in the messages of a chat template.
        unstreamed: reason why frames cannot be fed to a stream separately; empty if they can.
    """

    frames_per_step: int = 1
    labelled: ClassVar[bool] = False
    frame_separator: ClassVar[str] = ""
    omits_tokens: ClassVar[bool] = False
    media: ClassVar[str] = "video"
    unstreamed: ClassVar[str] = ""

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        """Prepare frames, (height, width, 3) uint8 each, for `encode`: all of them, with patches per frame that do not
        depend on the number of frames.
        """
        return process(processor, frames)

    def placeholder(self, processor: Any) -> str:
        """Return the text that the chat template writes for a video."""
        token: str = processor.video_token
        return token

    def video_markup(self, processor: Any) -> FrameText:
        """Return the text that the chat template writes around a video and the processor replaces by that of its
        frames.
        """
        return FrameText()

    def video_text(self, processor: Any) -> FrameText:
        """Return the text that the processor writes before the first frame of a video and after the last one, without
        parts that depend on the number of frames.
        """
        return FrameText()

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        """Write the text around each temporal step of a stream, as the processor would.

        Args:
            processor: processor, which defines the special tokens.
            seconds: time of each step.
            first: index of the first step in the stream, from 0.
        """
        return [FrameText()] * len(seconds)

    def video_end(self) -> Tensor | None:
        """Return the embeddings that the model appends after the last frame of a video, (n, d), or None."""
        return None

    def step_seconds(self, times: Sequence[float]) -> list[float]:
        """Return the time of each temporal step: that of its first frame, or the one that the processor writes.

        Args:
            times: seconds of the frames; an odd last frame forms a separate step.
        """
        return list(times[:: self.frames_per_step])

    def temporal_offsets(self, grid: Grid, seconds: Sequence[float], steps: Sequence[int]) -> list[float]:
        """Compute the distance, in positions, of temporal steps from an earlier one.

        Args:
            grid: visual tokens of the steps.
            seconds: time since the earlier step, per step.
            steps: number of steps since the earlier step, per step.
        """
        return [float(step * grid.patches) for step in steps]

    def aligned_inputs(self, aligned: Tensor, visual: Tensor) -> dict[str, Any]:
        """Return the text model's arguments for deepstack features that were encoded outside a forward pass.

        Args:
            aligned: features of the visual tokens, (tokens, levels·d), as `Adapter.encode` returns them.
            visual: visual tokens of the pass, (1, n) bool.
        """
        return {}
