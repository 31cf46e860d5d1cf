"""Read frames of a video, with the seconds at which they are shown."""

from __future__ import annotations

from collections.abc import Generator

from .decoding import Frames
from .selection import select
from .source import Source, VideoSource, find_source
from .timeline import Seconds, read_timeline
from .video import Video

__all__ = ["Frames", "Seconds", "Video", "VideoSource", "frame_rate", "read_in_groups", "read_video"]


def read_video(
    video: VideoSource | Source,
    *,
    fps: float | None = None,
    frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    at_most: bool = False,
    max_pixels: int | None = None,
    max_frames: int | None = None,
    max_bytes: int | None = None,
) -> Video:
    """Read frames of a video, evenly spaced in time; every frame without `fps` or `frames`.

    Frames and times are those of a player: rotated and trimmed by the file's metadata, timed by its timestamps. A frame
    on screen for several samples is repeated.

    Args:
        video: a path, a file:// URL, the bytes of a video file, or a binary file object that can be rewound.
        fps: frames per second to sample.
        frames: number of frames to sample.
        start, end: the part to read, in seconds; the whole video by default.
        at_most: whether to read fewer frames if the video is shorter or has fewer.
        max_pixels: pixels per frame above which frames are scaled down while they are read, in proportion.
        max_frames: maximum number of frames; without `max_bytes`, regardless of their memory.
        max_bytes: memory for the frames; 2 GiB by default, unless `max_frames` is given.

    Raises:
        VideoError: the file is missing or unreadable, does not have the requested frames, or has too many.
    """
    selection = select(video, fps=fps, frames=frames, start=start, end=end, at_most=at_most)
    return selection.read(max_pixels=max_pixels, max_frames=max_frames, max_bytes=max_bytes)


def read_in_groups(
    video: VideoSource,
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    size: int = 32,
    max_pixels: int | None = None,
) -> tuple[int, Generator[Video, None, None]]:
    """Read a video like `read_video`, `size` frames at a time, so that memory does not grow with its length.

    Frames are decoded as the groups are consumed. Groups of large frames have fewer of them, to fit into 256 MiB.

    Returns:
        The number of groups, and an iterator over them.

    Raises:
        VideoError: the file is missing or unreadable, or does not have the requested frames.
    """
    counts, groups = select(video, fps=fps, start=start, end=end).groups(size, max_pixels)
    return len(counts), groups


def frame_rate(video: VideoSource) -> float:
    """Return the average frames per second of a video.

    Raises:
        VideoError: the file is missing or unreadable.
    """
    return read_timeline(find_source(video)).rate
