"""Sampled frames of a video, and the seconds at which they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VideoError
from ..utils.formatting import plural
from .decoding import Frames
from .timeline import Seconds


@dataclass(frozen=True, repr=False)
class Video:
    """Sampled frames of a video.

    Attributes:
        frames: RGB, (frames, height, width, 3) uint8.
        times: time of each frame in seconds from the start of the video, increasing, (frames,).
        fps: sampled frames per second.
        duration: duration of the whole video in seconds, regardless of the sampled part.
        path: the source file, None for frames from memory.
    """

    frames: Frames
    times: Seconds
    fps: float
    duration: float
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        (count, height, width, _), source = self.frames.shape, "memory" if self.path is None else self.path.name
        span = f"{self.times[0]:.1f} to {self.times[-1]:.1f} s"
        return f"<Video from {source}: {plural(count, 'frame')} of {width}×{height}, {span}, {self.fps:.3g} fps>"

    @classmethod
    def from_frames(cls, frames: Frames, fps: float) -> Video:
        """Make a video from frames in memory.

        Args:
            frames: RGB, (frames, height, width, 3) uint8.
            fps: frames per second.

        Raises:
            VideoError: the frames have another shape or type, there are none, or fps is not above zero.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise VideoError(
                f"Frames must be (frames, height, width, 3) uint8, at least one; got {frames.shape} {frames.dtype}."
            )
        if not 0 < fps < float("inf"):
            raise VideoError(f"fps must be above zero, got {fps:g}.")
        return cls(frames, np.arange(len(frames)) / fps, fps, len(frames) / fps)

    @property
    def metadata(self) -> dict[str, Any]:
        """Arguments of transformers' `VideoMetadata`.

        Its `fps` is the sampled one and its `frames_indices` count in sampled frames (with a fraction where frames are
        not evenly spaced), so that every processor finds the times of the frames as `frames_indices / fps` and their
        rate as `fps · len(frames_indices) / total_num_frames`, for any sampled part of the file.
        """
        count, height, width, _ = self.frames.shape
        return {
            "total_num_frames": count,
            "fps": self.fps,
            "width": width,
            "height": height,
            "duration": self.duration,
            "video_backend": "pyav",
            "frames_indices": [round(float(time) * self.fps, 6) for time in self.times],
        }
