"""What a stream asks of a model family: how pushed frames are prepared, and what is written around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ..compressor.entries import Grid
from ..video.frames import process


class FrameText(NamedTuple):
    """Text that a processor writes around the visual tokens of one frame, or around all frames of a video.

    What closes a frame is special tokens or nothing, so that the text behind it is tokenised apart from it.
    """

    opens: str = ""
    closes: str = ""


class StreamedFrames:
    """The part of an adapter that streams use.

    Attributes:
        frames_per_step: video frames per temporal step.
        labelled: whether text is written around each frame; positions then count tokens.
        frame_separator: text between two frames of a video, after what closes one and before what opens the next.
        omits_tokens: whether the processor may leave visual tokens of a frame out.
        media: type of a video in the messages of a chat template.
        unstreamed: why frames cannot be fed to a stream one after another; empty if they can.
    """

    frames_per_step: int = 1
    labelled: ClassVar[bool] = False
    frame_separator: ClassVar[str] = ""
    omits_tokens: ClassVar[bool] = False
    media: ClassVar[str] = "video"
    unstreamed: ClassVar[str] = ""

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        """Prepare frames, (height, width, 3) uint8 each, for `encode`; none is left out, and each makes the same number
        of patches however many there are.
        """
        return process(processor, frames)

    def placeholder(self, processor: Any) -> str:
        """Return what the chat template writes for a video."""
        token: str = processor.video_token
        return token

    def video_markup(self, processor: Any) -> FrameText:
        """Return what the chat template writes around a video and the processor replaces by the text of its frames."""
        return FrameText()

    def video_text(self, processor: Any) -> FrameText:
        """Return what the processor writes before the first frame of a video and after the last one, without anything
        that tells how many they are.
        """
        return FrameText()

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        """Write the text around each temporal step of a stream, as the processor would.

        Args:
            processor: knows the special tokens.
            seconds: when each is shown.
            first: ordinal of the first of them in the stream, from 0.
        """
        return [FrameText()] * len(seconds)

    def video_end(self) -> Tensor | None:
        """Return the embeddings that the model itself puts after the last frame of a video, (n, d), or None."""
        return None

    def step_seconds(self, times: Sequence[float]) -> list[float]:
        """Return when each temporal step is shown: its first frame, or what the processor writes for it.

        Args:
            times: seconds of the frames; an odd one at the end makes a step by itself.
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
