"""Choose frames of a video by rate, number and range, then decode them."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from .decoding import decode, shown_size
from .source import Source, VideoSource, find_source
from .timeline import Seconds, Timeline, read_timeline
from .video import Video

USUAL_FPS = 2.0
"""Frames per second to sample, or of frames in memory, if the caller gives none."""
MAX_BYTES = 2 << 30
"""Memory for the frames of one `read`, unless `max_frames` allows more."""
GROUP_BYTES = 256 << 20
"""Memory for the frames of one group."""

_TOLERANCE = 1e-3
"""Seconds by which a container may round a timestamp."""


@dataclass(frozen=True)
class Selection:
    """Chosen frames of a video, not decoded yet.

    Attributes:
        source, timeline: the video.
        chosen: frames of the timeline, ascending; a frame that stays on screen may be chosen several times.
        times: seconds at which they are on screen, increasing.
        fps: chosen frames per second.
    """

    source: Source
    timeline: Timeline
    chosen: NDArray[np.int64]
    times: Seconds
    fps: float

    def __len__(self) -> int:
        return len(self.chosen)

    def read(
        self, *, max_pixels: int | None = None, max_frames: int | None = None, max_bytes: int | None = None
    ) -> Video:
        """Decode all frames, scaled down to `max_pixels` each.

        Raises:
            VideoError: there are more than `max_frames`, or than fit into `max_bytes` (`MAX_BYTES` if neither is
                given), or frames are missing or damaged.
        """
        count, name = len(self), self.source.name
        height, width = _size(self.timeline, max_pixels)
        if max_frames is not None and count > _whole("max_frames", max_frames):
            raise VideoError(f"{name}: {count} frames were asked for, more than max_frames={max_frames}.")
        taken = 3 * height * width * count
        allowed = MAX_BYTES if max_bytes is None and max_frames is None else max_bytes
        if allowed is not None and taken > allowed:
            raise VideoError(
                f"{name}: {count} frames of {width}×{height} pixels take {taken / 2**30:.1f} GiB, more than "
                f"{allowed / 2**30:g} GiB. Scale them down while they are read (max_pixels=…), take fewer (fps=… or "
                f"frames=…), or allow that many (max_frames={count})."
            )
        with closing(self._decode([count], max_pixels)) as videos:
            return next(videos)

    def groups(self, size: int, max_pixels: int | None = None) -> tuple[Sequence[int], Generator[Video, None, None]]:
        """Decode up to `size` frames at a time, fewer if they do not fit into `GROUP_BYTES`, as they are consumed.

        Returns:
            Frames of each group, and the groups.
        """
        height, width = _size(self.timeline, max_pixels)
        most = max(1, min(_whole("size", size), GROUP_BYTES // (3 * height * width)))
        counts = [min(most, len(self) - first) for first in range(0, len(self), most)]
        return counts, self._decode(counts, max_pixels)

    def _decode(self, counts: Sequence[int], max_pixels: int | None) -> Generator[Video, None, None]:
        done = 0
        with closing(decode(self.source, self.timeline, self.chosen, max_pixels)) as pictures:
            for count in counts:
                frames = np.empty((count, *shown_size(self.timeline, max_pixels), 3), np.uint8)
                for place, picture in zip(range(count), pictures, strict=False):
                    frames[place] = picture
                times = self.times[done : done + count]
                yield Video(frames, times, self.fps, self.timeline.duration, self.source.path)
                done += count


def select(
    video: VideoSource | Source,
    *,
    fps: float | None = None,
    frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    at_most: bool = False,
    default_fps: float | None = None,
) -> Selection:
    """Choose frames of a video, evenly spaced in time.

    Args:
        video, fps, frames, start, end, at_most: as in `read_video`.
        default_fps: frames to sample per second if neither `fps` nor `frames` is given; all if the video has fewer.

    Raises:
        VideoError: the file is missing or unreadable, or does not have the requested frames.
    """
    if fps is not None and frames is not None:
        raise VideoError(f"Give either fps or frames, not both (fps={fps:g}, frames={frames}).")
    if fps is not None and not 0 < fps < math.inf:
        raise VideoError(f"fps must be above zero, got {fps:g}.")
    if frames is not None:
        _whole("frames", frames)
    source = find_source(video)
    timeline = read_timeline(source)
    if fps is None and frames is None and default_fps is not None:
        fps = min(default_fps, timeline.rate)
    first, last = _range(source, timeline, start, end, at_most)
    inside = np.flatnonzero((timeline.times >= first) & (timeline.times < last))
    if not len(inside):
        raise VideoError(f"{source.name} shows no new frame between {first:g} s and {last:g} s: widen start and end.")

    if fps is None and frames is None:
        return Selection(source, timeline, inside, timeline.times[inside], timeline.rate)
    wanted = frames if fps is None else max(1, round(min((last - first) * fps, 1e15)))
    assert wanted is not None
    if wanted > len(inside):
        if at_most:
            return Selection(source, timeline, inside, timeline.times[inside], len(inside) / (last - first))
        raise VideoError(
            f"{source.name} has {len(inside)} frames between {first:g} s and {last:g} s, {wanted} were asked for "
            f"({f'frames={frames}' if fps is None else f'fps={fps:g}'}): ask for fewer."
        )
    rate = wanted / (last - first) if fps is None else float(fps)
    targets = first + np.arange(wanted) / rate
    chosen = np.searchsorted(timeline.times, targets + min(_TOLERANCE, 0.25 / rate), side="right") - 1
    again = np.diff(chosen, prepend=-1) == 0
    return Selection(source, timeline, chosen, np.where(again, targets, timeline.times[chosen]), rate)


def _range(
    source: Source, timeline: Timeline, start: float | None, end: float | None, at_most: bool
) -> tuple[float, float]:
    """Check the part to read, in seconds."""
    name, duration = source.name, timeline.duration
    if at_most and end is not None:
        end = min(end, duration)
    first, last = 0.0 if start is None else float(start), duration if end is None else float(end)
    if not timeline.whole and last >= duration:
        raise VideoError(
            f"{name} is cut off after {duration:g} s: it should be longer than its {source.size} bytes. Copy or "
            "download it again, or read only a part with start=… and end=…."
        )
    if not 0 <= first < duration:
        raise VideoError(f"start={first:g} lies outside {name}, which is {duration:g} s long.")
    if not 0 <= last <= duration + 1e-3:
        raise VideoError(f"end={last:g} lies outside {name}, which is {duration:g} s long.")
    if last <= first:
        raise VideoError(f"end={last:g} must be after start={first:g} (seconds).")
    return first, last


def _size(timeline: Timeline, max_pixels: int | None) -> tuple[int, int]:
    return shown_size(timeline, None if max_pixels is None else _whole("max_pixels", max_pixels))


def _whole(name: str, value: int) -> int:
    """Check that a number is whole and above zero."""
    if not value > 0:
        raise VideoError(f"{name} must be above zero, got {value:g}.")
    if value != int(value):
        raise VideoError(f"{name} must be a whole number, got {value:g}.")
    return int(value)
