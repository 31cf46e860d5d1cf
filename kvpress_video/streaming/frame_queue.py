"""Queue of pushed frames until they fill a chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..compressor.entries import Kind
from ..errors import VideoError
from ..models.base import Adapter
from ..video.frames import as_frames, as_times
from ..video.reader import Frames
from ..video.resolution import frame_pixels

TIME_LIMIT = 1e10
"""Largest absolute time of a frame in seconds, enough for seconds since 1970."""


class FrameBatch(NamedTuple):
    """The processor's output for queued frames, and the time of each temporal step in seconds."""

    inputs: Any
    seconds: list[float]


class TimedFrame(NamedTuple):
    """An accepted frame.

    Attributes:
        frame: (height, width, 3) uint8.
        time: seconds.
        since: frames since the last explicit timestamp, 0 for a frame with one.
    """

    frame: Frames
    time: float
    since: int


@dataclass(frozen=True)
class QueueState:
    """The state of a `FrameQueue`, without the queued frames.

    Attributes:
        count: frames accepted so far, queued ones included.
        last_time: time of the last frame in seconds, None before the first.
        size: height and width of every frame, None before the first.
        anchor: the last explicit timestamp in seconds, 0 without one.
        since: number of the next frame, counted from the one at `anchor`.
    """

    count: int = 0
    last_time: float | None = None
    size: tuple[int, int] | None = None
    anchor: float = 0.0
    since: int = 0


class FrameQueue:
    """Frames of one size in order of time.

    Attributes:
        frames, times: queued frames, (height, width, 3) uint8, and their seconds.
        state: everything else that the next frames depend on.
    """

    def __init__(self, processor: Any, adapter: Adapter, chunk: int, fps: float, label_tokens: int = 0) -> None:
        """Start empty.

        Args:
            processor: processor, which determines the visual tokens of a frame.
            adapter: adapter of the model.
            chunk: visual and label tokens per chunk, rounded down to whole frames, at least one temporal step.
            fps: frames per second if no times are given.
            label_tokens: tokens of text around a temporal step.
        """
        self._label_tokens = label_tokens
        self._processor, self._adapter, self._chunk_tokens, self._fps = processor, adapter, chunk, fps
        self._chunk_frames: int | None = None
        self.frames: list[Frames] = []
        self.times: list[float] = []
        self.state = QueueState()

    def accept(self, frames: Any, times: float | Iterable[float] | None) -> list[TimedFrame]:
        """Check frames and times without queueing them.

        Raises:
            VideoError: frames or times are invalid.
        """
        found, state = as_frames(frames), self.state
        size = found.shape[1:3]
        if state.size is not None and state.size != size:
            raise VideoError(
                f"Frames of {size[0]}×{size[1]} were pushed to a stream of {state.size[0]}×{state.size[1]}: "
                "resize them, or start another session."
            )
        if times is not None:
            seconds, since = as_times(times, len(found), state.last_time), [0] * len(found)
        else:
            since = list(range(state.since, state.since + len(found)))
            seconds = [state.anchor + number / self._fps for number in since]
        self._check_times(seconds)
        if self._chunk_frames is None:
            self._chunk_frames = self.frames_per_chunk(found[0])
        return [TimedFrame(*each) for each in zip(found, seconds, since, strict=True)]

    def _check_times(self, seconds: Sequence[float]) -> None:
        before = self.state.last_time
        for time in seconds:
            if abs(time) > TIME_LIMIT:
                raise VideoError(
                    f"A frame's time must be within ±{TIME_LIMIT:g} seconds, got {time:g}: count from the beginning of "
                    "the stream, in seconds."
                )
            if before is not None and time <= before:
                raise VideoError(f"Times do not advance at {time:g} s with {self._fps:g} frames per second: lower fps.")
            before = time

    def put(self, accepted: TimedFrame) -> None:
        """Queue an accepted frame."""
        frame, time, since = accepted
        self.frames.append(frame)
        self.times.append(time)
        anchor = self.state.anchor if since else time
        self.state = QueueState(self.state.count + 1, time, (frame.shape[0], frame.shape[1]), anchor, since + 1)

    @property
    def full(self) -> bool:
        """Whether a chunk is queued."""
        return self._chunk_frames is not None and len(self.frames) >= self._chunk_frames

    @property
    def max_pixels(self) -> int | None:
        """Maximum number of pixels per frame that the processor uses; None if unknown or exceeded before."""
        pixels, size = frame_pixels(self._processor), self.state.size
        return None if pixels and size and size[0] * size[1] > pixels else pixels

    def batch(self) -> FrameBatch:
        """Process all queued frames; an odd last frame forms a separate temporal step, as in the processor."""
        inputs = self._adapter.frame_inputs(self._processor, self.frames)
        return FrameBatch(inputs, self._adapter.step_seconds(self.times))

    def clear(self) -> None:
        """Drop the queued frames."""
        self.frames, self.times = [], []

    def frames_per_chunk(self, one: Frames) -> int:
        """Return how many frames like this one, (height, width, 3) uint8, fill a chunk.

        Raises:
            VideoError: the vision tower cannot encode single frames of this size.
        """
        step = self._adapter.frames_per_step
        first = self._adapter.unpack(Kind.VIDEO, self._adapter.frame_inputs(self._processor, [one] * step))
        if first is None:
            raise VideoError("The vision tower cannot encode these frames one by one.")
        return step * max(1, self._chunk_tokens // (first[0].grid.patches + self._label_tokens))

    def tensors(self) -> dict[str, Tensor]:
        """Copy the queued frames, (frames, height, width, 3) uint8, and their times, (frames,) fp64 seconds."""
        if not self.frames:
            return {}
        times = torch.tensor(self.times, dtype=torch.float64)
        return {"waiting.frames": torch.from_numpy(np.stack(self.frames)), "waiting.times": times}

    def restore(self, state: QueueState, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the state and the tensors of another queue."""
        self.state = state
        if "waiting.frames" in tensors:
            self.frames = list(tensors["waiting.frames"].cpu().numpy().copy())
            self.times = tensors["waiting.times"].tolist()
