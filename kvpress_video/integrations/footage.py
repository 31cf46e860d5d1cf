"""Videos from evaluation harnesses: file paths, or frames in memory."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.Image import Image

from ..errors import VideoError
from ..video.reader import Frames, Video, read_video
from ..video.selection import USUAL_FPS


class Footage(Protocol):
    """A video that has not been read yet."""

    @property
    def key(self) -> Hashable:
        """Return a key that is equal for equal videos."""

    def read(self, frames: int | None, fps: float | None, max_pixels: int | None = None) -> Video:
        """Read the video.

        Args:
            frames, fps: frames to sample from a file, in total or per second; all if it has fewer.
            max_pixels: pixels per frame above which frames of a file are scaled down.

        Raises:
            VideoError: it cannot be read.
        """


@dataclass(frozen=True)
class File:
    """A video file, or a part of it in seconds."""

    path: Path
    start: float | None = None
    end: float | None = None

    @property
    def key(self) -> Hashable:
        """The path and the part."""
        return self

    def read(self, frames: int | None, fps: float | None, max_pixels: int | None = None) -> Video:
        """Read the requested frames, or fewer if the file has fewer; all by default."""
        return read_video(
            self.path,
            frames=frames,
            fps=fps,
            start=self.start,
            end=self.end,
            at_most=True,
            max_pixels=max_pixels,
            max_frames=sys.maxsize,
        )


@dataclass(frozen=True, eq=False)
class Pictures:
    """Frames in memory: RGB, (frames, height, width, 3) uint8."""

    frames: Frames

    @cached_property
    def key(self) -> Hashable:
        """The shape and a digest of the pixels."""
        return self.frames.shape, blake2b(np.ascontiguousarray(self.frames).data).hexdigest()

    def read(self, frames: int | None, fps: float | None, max_pixels: int | None = None) -> Video:
        """Return all frames, ignoring the request."""
        return Video.from_frames(self.frames, fps or USUAL_FPS)


@singledispatch
def footage(visual: object) -> File | Pictures:
    """Recognise the video of a request: a path, frames, or a list with one of these.

    Raises:
        VideoError: it is none of these, or several videos.
    """
    raise VideoError(f"A video is the path of a file or a list of frames, not a {type(visual).__name__}.")


@footage.register
def _(visual: str) -> File | Pictures:
    return File(Path(visual))


@footage.register
def _(visual: Path) -> File | Pictures:
    return File(visual)


@footage.register
def _(visual: Image) -> File | Pictures:
    return Pictures(np.asarray(visual.convert("RGB"))[None])


@footage.register
def _(visual: np.ndarray) -> File | Pictures:
    return Pictures(visual if visual.ndim == 4 else visual[None])


@footage.register(list)
@footage.register(tuple)
def _(visual: Sequence[object]) -> File | Pictures:
    parts = [footage(part) for part in visual]
    if len(parts) == 1:
        return parts[0]
    pictures = [part.frames for part in parts if isinstance(part, Pictures)]
    if not parts or len(pictures) < len(parts):
        raise VideoError(f"A question is about one video, got {len(parts)} visuals: {visual!r:.200}.")
    if len({picture.shape[1:] for picture in pictures}) > 1:
        sizes = sorted({picture.shape[1:] for picture in pictures})
        raise VideoError(f"The {len(pictures)} frames of a video differ in size: {sizes}.")
    return Pictures(np.concatenate(pictures))
