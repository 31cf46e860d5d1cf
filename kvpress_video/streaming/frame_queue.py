"""Where pushed frames wait until they fill a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..compressor.entries import Kind
from ..errors import VideoError
from ..models.base import Adapter
from ..video.frames import as_frames, as_times, process
from ..video.reader import Frames
from ..video.resolution import frame_pixels
from .state import Snapshot


class Batch(NamedTuple):
    """A chunk for the model: what its processor makes of the frames, and the seconds of each temporal step."""

    inputs: Any
    seconds: list[float]


class FrameQueue:
    """Frames of one size, in order of time.

    Attributes:
        frames, times: those that wait, (height, width, 3) uint8 and seconds.
        count: frames that ever came.
        last_time: when the last of them was shown, None before the first.
        size: height and width of every frame, None before the first.
        told, untold: the last time that was told (0 before the first), and how many frames after it the next one is.
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
        self.told, self.untold = 0.0, 0

    def accept(self, frames: Any, times: float | Iterable[float] | None) -> list[tuple[Frames, float, int]]:
        """Frames, their times, and how many frames after the last told time they are, checked, for `put`.

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
        if self._chunk is None:
            self._chunk = self._frames_of_a_chunk(found[0])
        if times is not None:
            return [
                (frame, time, 0) for frame, time in zip(found, as_times(times, len(found), self.last_time), strict=True)
            ]
        since = range(self.untold, self.untold + len(found))
        return [(frame, self.told + number / self._fps, number) for frame, number in zip(found, since, strict=True)]

    def put(self, frame: Frames, time: float, untold: int) -> None:
        """Let an accepted frame wait."""
        self.frames.append(frame)
        self.times.append(time)
        self.count += 1
        self.last_time, self.size, self.untold = time, frame.shape[:2], untold + 1
        if not untold:
            self.told = time

    @property
    def full(self) -> bool:
        """Whether a chunk waits."""
        return self._chunk is not None and len(self.frames) >= self._chunk

    @property
    def max_pixels(self) -> int | None:
        """Pixels per frame that the processor can make use of; None where it does not say, or larger frames came."""
        pixels = frame_pixels(self._processor)
        return None if pixels and self.size and self.size[0] * self.size[1] > pixels else pixels

    def batch(self) -> Batch:
        """All that waits; an odd frame at the end stands for a whole temporal step, as in the processor."""
        return Batch(process(self._processor, self.frames), self.times[:: self._adapter.frames_per_step])

    def clear(self) -> None:
        """Nothing waits any more."""
        self.frames, self.times = [], []

    def _frames_of_a_chunk(self, one: Frames) -> int:
        step = self._adapter.frames_per_step
        first = self._adapter.unpack(Kind.VIDEO, process(self._processor, [one] * step))
        if first is None:
            raise VideoError("The vision tower cannot be given these frames one by one.")
        return step * max(1, self._most // first[0].grid.patches)

    def snapshot(self) -> Snapshot:
        """The frames that wait, and where time is."""
        names = ("count", "last_time", "size", "told", "untold")
        waiting = {}
        if self.frames:
            waiting["waiting.frames"] = torch.from_numpy(np.stack(self.frames))
            waiting["waiting.times"] = torch.tensor(self.times, dtype=torch.float64)
        return Snapshot(waiting, {name: getattr(self, name) for name in names})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on as another inbox would."""
        facts, tensors = snapshot.facts, snapshot.tensors
        self.count, self.last_time, self.told = facts["count"], facts["last_time"], facts["told"]
        self.untold, self.size = facts["untold"], facts["size"] and (facts["size"][0], facts["size"][1])
        if "waiting.frames" in tensors:
            self.frames = list(tensors["waiting.frames"].cpu().numpy().copy())
            self.times = tensors["waiting.times"].tolist()
