"""Packets of a video stream: their timestamps, and the frames in them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from ..utils.warnings import warn_caller
from .headers import MAX_SAMPLES
from .source import Source

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.container.core import Container
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Ticks = NDArray[np.int64]

NO_TIME = np.iinfo(np.int64).min
"""Value of a missing timestamp."""


class PacketTable:
    """Timestamps of the packets with frames, in decoding order, without those hidden by an edit list."""

    def __init__(self) -> None:
        self._columns = tuple(array("q") for _ in range(5))

    def __len__(self) -> int:
        return len(self._columns[0])

    def note(self, packets: Iterable[Packet[VideoStream]], source: Source) -> Iterator[Packet[VideoStream]]:
        """Record packets while passing them on.

        Raises:
            VideoError: there are more than `MAX_SAMPLES`.
        """
        for packet in packets:
            if packet.size and not packet.is_discard:
                values = (packet.pts, packet.dts, packet.duration, packet.pos, packet.is_keyframe)
                for column, value, unknown in zip(self._columns, values, (NO_TIME, NO_TIME, 0, -1, 0), strict=True):
                    column.append(unknown if value is None else value)
            if len(self) > MAX_SAMPLES:
                raise VideoError(f"{source.name} has more than {MAX_SAMPLES:,} frames: cut it first.")
            yield packet

    def rows(self) -> Ticks:
        """Return presentation and decoding timestamps (or `NO_TIME`), durations (0 if unknown), positions in the file
        (-1 if unknown) and whether each is a key frame, (5, packets)."""
        return np.array([np.frombuffer(column, np.int64) for column in self._columns])


def demuxed(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Demux the rest of a stream, including the final packet that flushes the decoder."""
    try:
        yield from container.demux(stream)
    except IndexError:
        return  # PyAV looks up streams that appear within the file and that it does not know, after this one has ended


def decoded(packets: Iterable[Packet[VideoStream]], source: Source) -> Iterator[VideoFrame]:
    """Decode packets from the first intact frame on, since nothing before a key frame can be decoded. Damaged later
    frames raise an error; in broadcast formats, where losses are expected, they are omitted with a warning.

    Raises:
        VideoError: a packet is damaged.
    """
    import av

    begun = False
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            frames, damaged = [], True
        else:
            damaged = any(frame.is_corrupt for frame in frames)
        if damaged and begun:
            if not is_broadcast(packet.stream.container):
                raise source.damaged()
            warn_caller(f"{source.name} has damaged frames, which are skipped.")
        for frame in frames:
            if not frame.is_corrupt:
                begun = True
                yield frame


def is_broadcast(container: Container) -> bool:
    """Return whether a format is a broadcast format, in which losses and restarted timestamps are expected."""
    return container.format.name in ("mpegts", "mpeg")
