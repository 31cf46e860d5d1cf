"""Video files whose frames carry their number, written with PyAV."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

BITS = 6


def numbered(number: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """A frame, (height, width, 3): its number in bars across the upper half, and white in the lower left corner."""
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        picture[: height // 2, width * bit // BITS : width * (bit + 1) // BITS] = 255 * (number >> (BITS - 1 - bit) & 1)
    picture[height // 2 :, : width // 3] = 255
    return picture


def number_of(picture: NDArray[np.uint8]) -> int:
    """The number of a frame of any size, which must be upright and undamaged."""
    height, width = picture.shape[:2]
    grey = picture.mean(axis=2)
    rows, side = slice(height // 8, 3 * height // 8), width // BITS // 4
    middles = [width * (2 * bit + 1) // (2 * BITS) for bit in range(BITS)]
    bars = [grey[rows, middle - side : middle + side + 1].mean() for middle in middles]
    lower = grey[5 * height // 8 : 7 * height // 8]
    corners = [lower[:, width // 12 : width // 4].mean(), lower[:, width // 2 : 11 * width // 12].mean()]
    assert all(level < 64 or level > 192 for level in [*bars, *corners]), (bars, corners)
    assert corners[0] > 192 > 64 > corners[1], "not upright"
    return sum((level > 128) << (BITS - 1 - bit) for bit, level in enumerate(bars))


def numbers_of(frames: NDArray[np.uint8]) -> list[int]:
    return [number_of(picture) for picture in frames]


@contextmanager
def unchanged_scheduling() -> Iterator[None]:
    """Undo what libsvtav1 does as root: it gives the thread real-time priority, which starves all other processes."""
    if not hasattr(os, "sched_setscheduler"):  # macOS
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def write_video(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 30,
    rate: int = 10,
    size: tuple[int, int] = (64, 96),
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    shown_at: Callable[[int], int] | None = None,
    picture: Callable[[int, int, int], NDArray[np.uint8]] = numbered,
) -> Path:
    """Write numbered frames; the test is skipped where this PyAV has no such encoder.

    Args:
        shown_at: when each is shown, in units of 1 / rate seconds.
    """
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {codec}")
    height, width = size
    with unchanged_scheduling(), av.open(str(path), "w", format=container, options=container_options or {}) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")
            if shown_at is not None:
                frame.time_base, frame.pts = Fraction(1, rate), shown_at(number)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def shift(source: Path, target: Path, seconds: float, container_options: dict[str, str] | None = None) -> Path:
    """Copy a file's packets with their timestamps moved earlier; MP4 hides those before zero by an edit list."""
    options = {"avoid_negative_ts": "disabled"} | (container_options or {})
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                moved = int(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - moved, packet.dts - moved, copy
                new.mux(packet)
    return target


def edited(path: Path, parts: Sequence[tuple[float | None, float]]) -> Path:
    """Give an MP4 an edit list in place: the start of each part in seconds (None shows nothing) and its length."""
    data = bytearray(path.read_bytes())
    (media,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    (movie,) = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)
    place = data.index(b"elst") - 4
    length, _, _, _, _, first = struct.unpack_from(">I4sIIIi", data, place)
    entries = [
        struct.pack(">IiI", round(lasts * movie), -1 if start is None else first + round(start * media), 1 << 16)
        for start, lasts in parts
    ]
    box = struct.pack(">I4sII", 16 + 12 * len(entries), b"elst", 0, len(entries)) + b"".join(entries)
    data[place : place + length] = box
    for outer in (b"edts", b"trak", b"moov"):  # behind the frames, whose places in the file stay
        start = data.index(outer) - 4
        struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + len(box) - length)
    path.write_bytes(bytes(data))
    return path


def write_streams(path: Path, kinds: Sequence[str]) -> Path:
    """Write a stream of 20 numbered frames per `"default"` or `"other"`, counting on, and a picture per `"cover"`."""
    marks = {"default": Disposition.default, "other": Disposition(0), "cover": Disposition.attached_pic}
    with av.open(str(path), "w") as file:
        streams: list[Any] = []
        for kind in kinds:
            stream: Any = file.add_stream("mjpeg" if kind == "cover" else "libx264", rate=10)
            stream.width, stream.height, stream.disposition = 96, 64, marks[kind]
            stream.pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
            streams.append(stream)
        for number in range(20):
            for place, (kind, stream) in enumerate(zip(kinds, streams, strict=True)):
                if kind == "cover" and number:
                    continue
                picture = np.zeros((64, 96, 3), np.uint8) if kind == "cover" else numbered(20 * place + number)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode(None))
    return path


def looped(source: Path, target: Path, times: int) -> Path:
    """Repeat a file's packets, so that a long video takes no longer to write than a short one."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.dts is not None]
        length = sum(packet.duration or 0 for packet in packets)
        for number in range(times):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = packet.pts + number * length, packet.dts + number * length
                again.duration, again.is_keyframe = packet.duration, packet.is_keyframe
                again.time_base, again.stream = packet.time_base, copy
                new.mux(again)
    return target


def turned(path: Path, matrix: Sequence[int]) -> Path:
    """Give an MP4 a display matrix (a, b, c, d) in place."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    place = data.index(b"tkhd") + 44
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(bytes(data))
    return path


def decoded_frames(path: Path) -> NDArray[np.uint8]:
    """Frames decoded by plain PyAV, in order."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def decoded_times(path: Path) -> list[float]:
    """When PyAV shows each decoded frame, in seconds from the first."""
    with av.open(str(path)) as file:
        times = [frame.time for frame in file.decode(video=0)]
    return [time - times[0] for time in times if time is not None]
