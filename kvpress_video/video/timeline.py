"""Read the times of a video's frames from the packets of its container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from ..utils.warnings import warn_caller
from .headers import check_header
from .packets import NO_TIME, PacketTable, Ticks, decoded, demuxed, is_broadcast
from .source import MAX_PIXELS, Source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Seconds = NDArray[np.float64]

MAX_DURATION = 7 * 24 * 3600.0
"""Longest plausible duration, in seconds."""
MIN_RATE, MAX_RATE = 0.01, 1000.0
"""Range of plausible stated frames per second."""
MAX_GAP = 10.0
"""Longest time for which a frame of a broadcast format stays on screen, in seconds; a longer gap is a restart."""

_USUAL_RATE = 25.0
_ONE_A_PACKET = ("h264", "hevc", "av1", "libdav1d")
_WITHOUT_TIMES = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS
_SAMPLE = 16
"""Number of frames whose timestamps are compared with the decoding order."""


@dataclass(frozen=True)
class Timeline:
    """The times at which the frames of a video are shown.

    Attributes:
        times: seconds since the first frame, increasing, (frames,).
        duration: seconds until the last frame disappears.
        ticks: the presentation timestamps behind `times`, in the stream's time base, (frames,); None if decoded
            frames carry no usable ones, and the n-th decoded frame is the n-th of `times`.
        key_frames: frames at which decoding can begin, ascending.
        key_packets: their presentation and decoding timestamps and places in the file, (3, key frames).
        height, width: size of a frame as stored.
        orientation: the display matrix, ((a, b), (c, d)), each 0, 1 or -1: a stored point (x, y) is shown at
            (ax + cy, bx + dy).
        whole: whether the file has its declared length.
        complete: whether every frame must be decodable; in other formats a packet may show no new frame.
    """

    times: Seconds
    duration: float
    ticks: Ticks | None
    key_frames: NDArray[np.int64]
    key_packets: Ticks
    height: int
    width: int
    orientation: NDArray[np.int64]
    whole: bool
    complete: bool

    @property
    def rate(self) -> float:
        """Average frames per second."""
        return len(self.times) / self.duration


def read_timeline(source: Source) -> Timeline:
    """Read the timestamps of all frames. Only the first frame is decoded, and a few more if timestamps may be guesses.

    Raises:
        VideoError: the file cannot be opened, has no frames, none that can be decoded, or too many.
    """
    with source.bytes() as file:
        declared = check_header(file, source.name)
    with source.open() as (container, stream):
        stream.codec_context.thread_count = 1
        table = PacketTable()
        packets = table.note(demuxed(container, stream), source)
        frames = decoded(packets, source)
        first = next(frames, None)
        if first is None:
            raise _no_frames(source, container, stream, len(table))
        in_order = _is_in_order(container, first, frames)
        for _ in packets:
            pass
        clock = _clock(source, container, stream, table.rows(), first.pts, in_order)
        return Timeline(
            *clock,
            height=first.height,
            width=first.width,
            orientation=_orientation(first),
            whole=declared <= source.size,
            complete=_is_complete(container, stream),
        )


def _is_complete(container: InputContainer, stream: VideoStream) -> bool:
    """Whether each packet of a format holds one shown frame."""
    return _states_times(container) and stream.codec_context.name in _ONE_A_PACKET


def _states_times(container: InputContainer) -> bool:
    """Whether a format states the presentation times, so that FFmpeg does not guess them."""
    return container.format.name.startswith(("mov", "matroska"))


def _has_times(container: InputContainer) -> bool:
    """Whether a format has any timestamps: FFmpeg gives raw streams 25 frames per second."""
    return not int(container.format.flags) & _WITHOUT_TIMES


def _is_in_order(container: InputContainer, first: VideoFrame, rest: Iterator[VideoFrame]) -> bool:
    """Whether timestamps increase in the order in which a decoder outputs the first frames."""
    if _states_times(container) or is_broadcast(container):
        return True
    ticks = [first.pts]
    with suppress(VideoError):  # reading may begin after the damage
        ticks.extend(frame.pts for frame in islice(rest, _SAMPLE - 1))
    known = [tick for tick in ticks if tick is not None]
    return all(before <= after for before, after in pairwise(known))


def _no_frames(source: Source, container: InputContainer, stream: VideoStream, packets: int) -> VideoError:
    if not packets:
        return VideoError(f"{source.name} holds no frames: is it cut off?")
    return VideoError(
        f"{source.name} is damaged, or has frames of more than {MAX_PIXELS:,} pixels: none of its {packets} frames can "
        f"be decoded (codec {stream.codec_context.name} in {container.format.name})."
    )


class _Clock(NamedTuple):
    times: Seconds
    duration: float
    ticks: Ticks | None = None
    key_frames: NDArray[np.int64] = np.zeros(0, np.int64)
    key_packets: Ticks = np.zeros((3, 0), np.int64)


def _clock(
    source: Source, container: InputContainer, stream: VideoStream, rows: Ticks, first: int | None, in_order: bool
) -> _Clock:
    """Compute the times of the frames.

    Args:
        rows: rows of the packet table.
        first: presentation timestamp of the first frame that can be decoded.
        in_order: whether the timestamps of the first frames increase in the order in which they are shown.
    """
    decodable = rows[:2, int(np.argmax(rows[0] == (NO_TIME if first is None else first))) :]
    timed = rows[:, (rows[0] != NO_TIME) & (rows[0] >= (NO_TIME if first is None else first))]
    pts, dts, durations, positions, keys = timed
    ticks = np.unique(pts)
    rate = _stated_rate(stream)
    second = 1 / float(stream.time_base or 1)  # in ticks: a whole number in most formats
    shown, decoding = ticks, np.unique(dts)
    if container.format.name == "avi" and len(decoding) == len(ticks):  # the others are guesses
        shown = decoding
    times = (shown - shown[:1]) / second
    duration = _duration(shown, int(durations[pts == ticks[-1:]].max(initial=0)), second / rate) / second
    # A decoder may reorder frames, yet timestamps follow the order of the packets, as in AVI, which only counts them:
    # the n-th timestamp belongs to the n-th frame that is shown.
    counted = stream.codec_context.has_b_frames and (np.diff(pts) > 0).all()
    usable = _has_times(container) and 2 * len(ticks) >= decodable.shape[1] and (counted or in_order)
    if not usable or not _plausible(times, duration, decodable[1], restarts=is_broadcast(container)):
        warn_caller(
            f"{source.name} has no usable timestamps: its frames are shown in decoding order, {rate:g} per second."
        )
        count = _count_frames(source)
        return _Clock(np.arange(count) / rate, count / rate)
    if counted:
        return _Clock(times, duration)
    timed = timed[:, keys > 0]
    pts, dts, _, positions, _ = timed[:, np.argsort(timed[0], kind="stable")]
    key_packets = np.stack([pts, np.where(dts == NO_TIME, pts, dts), positions])
    return _Clock(times, duration, ticks, np.searchsorted(ticks, pts), key_packets)


def _duration(ticks: Ticks, last: int, stated: float) -> float:
    """Return the ticks until the last frame disappears: after its own duration, or the usual one."""
    if not len(ticks):
        return 0.0
    usual = float(np.median(np.diff(ticks))) if len(ticks) > 1 else stated
    return float(ticks[-1] - ticks[0]) + (last or usual)


def _plausible(times: Seconds, duration: float, decoding: Ticks, restarts: bool) -> bool:
    """Whether these times are plausible."""
    gaps = np.diff(times)
    return (
        0 < duration <= MAX_DURATION
        and len(times) <= max(1, MAX_RATE * duration)
        and bool((np.diff(decoding[decoding != NO_TIME]) >= 0).all())
        and not (restarts and gaps.max(initial=0) > MAX_GAP)
    )


def _count_frames(source: Source) -> int:
    with source.open() as (container, stream):
        stream.codec_context.thread_type = "AUTO"
        return sum(1 for _ in decoded(demuxed(container, stream), source))


def _stated_rate(stream: VideoStream) -> float:
    """Return the frames per second stated by the container or the codec."""
    for stated in (stream.guessed_rate, stream.average_rate):
        if stated and MIN_RATE <= float(stated) <= MAX_RATE:
            return float(stated)
    return _USUAL_RATE


def _orientation(frame: VideoFrame) -> NDArray[np.int64]:
    """Return the display matrix of a frame, rounded to quarter turns and mirror images."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists no side data of a frame if it does not know the type of one item
        return _turned(frame.rotation)
    if found is None:
        return np.eye(2, dtype=np.int64)
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(found), np.int32).reshape(3, 3).astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return np.array([[np.sign(a) or 1, 0], [0, np.sign(d) or 1]])
    return np.array([[0, np.sign(b) or 1], [np.sign(c) or 1, 0]])


def _turned(degrees: int) -> NDArray[np.int64]:
    """Return the display matrix of quarter turns, given in degrees counter-clockwise."""
    once = np.array([[0, -1], [1, 0]])
    return np.linalg.matrix_power(once, round(degrees / 90) % 4)
