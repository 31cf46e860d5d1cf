"""Packets of a video stream: their timestamps, and the frames in them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from .headers import MAX_SAMPLES
from .source import Source

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Ticks = NDArray[np.int64]

NO_TIME = np.iinfo(np.int64).min
"""A timestamp that a packet does not have."""


class PacketTable:
    """Timestamps of the packets that hold frames, in decoding order; those that an edit list hides are left out."""

    def __init__(self) -> None:
        self._columns = tuple(array("q") for _ in range(5))

    def __len__(self) -> int:
        return len(self._columns[0])

    def note(self, packets: Iterable[Packet[VideoStream]], source: Source) -> Iterator[Packet[VideoStream]]:
        """Add packets as they pass through.

        Raises:
            VideoError: they are more than `MAX_SAMPLES`.
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


def decoded(packets: Iterable[Packet[VideoStream]], source: Source) -> Iterator[VideoFrame]:
    """Decode packets, beginning with the first sound frame: what comes before a key frame cannot be decoded.

    Raises:
        VideoError: a later packet is damaged.
    """
    import av

    sound = False
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if sound:
                raise source.damaged() from error
            continue
        for frame in frames:
            if not frame.is_corrupt:
                sound = True
                yield frame
            elif sound:
                raise source.damaged()
