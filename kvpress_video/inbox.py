"""Where pushed frames wait until they fill a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .entries import Kind
from .errors import VideoError
from .frames import as_frames, as_times, process
from .models.base import Adapter
from .video import Frames


class Batch(NamedTuple):
    """A chunk for the model: what its processor makes of the frames, and the seconds of each temporal step."""

    inputs: Any
    seconds: list[float]


class Inbox:
    """Frames of one size, in order of time.

    Attributes:
        frames, times: those that wait, (height, width, 3) uint8 and seconds.
        count: frames that ever came.
        last_time: when the last of them was shown, None before the first.
        size: height and width of every frame, None before the first.
    """

    def __init__(self, processor: Any, adapter: Adapter, chunk: int, fps: float) -> None:
        """Args:
        chunk: visual tokens that a chunk may have; whole frames, at least one.
        fps: frames per second where times are not given.
        """
        self._processor, self._adapter, self._most, self._fps = processor, adapter, chunk, fps
        self._chunk: int | None = None  # frames
        self.frames: list[Frames] = []
        self.times: list[float] = []
        self.count = 0
        self.last_time: float | None = None
        self.size: tuple[int, int] | None = None

    def accept(self, frames: Any, times: float | Iterable[float] | None) -> list[tuple[Frames, float]]:
        """Frames and their times, checked, for `put`.

        Raises:
            VideoError: they are not what they should be.
        """
        found = as_frames(frames)
        size = found.shape[1:3]
        if self.size is not None and self.size != size:
            raise VideoError(
                f"Frames of {size[0]}×{size[1]} came to a stream of {self.size[0]}×{self.size[1]}: "
                "resize them, or start another session."
            )
        return list(zip(found, as_times(times, len(found), self.last_time, self._fps), strict=True))

    def put(self, frame: Frames, time: float) -> None:
        """Let an accepted frame wait."""
        self.frames.append(frame)
        self.times.append(time)
        self.count += 1
        self.last_time, self.size = time, frame.shape[:2]

    @property
    def full(self) -> bool:
        """Whether a chunk waits."""
        if self._chunk is None and len(self.frames) >= self._adapter.frames_per_step:
            step = self._adapter.frames_per_step
            first = self._adapter.unpack(Kind.VIDEO, process(self._processor, self.frames[:step]))
            if first is None:
                raise VideoError("The vision tower cannot be given these frames one by one.")
            self._chunk = step * max(1, self._most // first[0].grid.patches)
        return self._chunk is not None and len(self.frames) >= self._chunk

    def take(self) -> Batch:
        """All that waits; an odd frame at the end stands for a whole temporal step, as in the processor."""
        batch = Batch(process(self._processor, self.frames), self.times[:: self._adapter.frames_per_step])
        self.frames, self.times = [], []
        return batch

    def restore(self, frames: np.ndarray, times: np.ndarray) -> None:
        """Let frames wait that waited elsewhere."""
        self.frames, self.times = list(frames), times.tolist()
