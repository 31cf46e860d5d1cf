"""Check what a file says of itself before a demuxer allocates memory for it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from ..errors import VideoError

MAX_SAMPLES = 5_000_000
"""Most frames of a file, or samples of one of its tracks: 46 hours at 30 frames per second."""

_MAX_EDITED = 4 * MAX_SAMPLES
_MAX_BOXES = 1_000_000
_OUTER = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")
_DATA = (b"mdat", b"moov", b"moof")
_ISO = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"sidx")


def check_header(file: BinaryIO, name: str) -> int:
    """Check the declared numbers of samples, and find out where the file should end.

    A demuxer of MP4 and MOV allocates its index from counts that need not fit the file: a few bytes can ask for any
    amount of memory.

    Args:
        file: the video file, open for reading.
        name: for messages.

    Returns:
        The declared size in bytes: more than the file has if it is cut off, 0 where the format does not say.

    Raises:
        VideoError: the file declares more samples than it can hold, or more than can be read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if head[:4] == b"RIFF":
        declared = int.from_bytes(head[4:], "little")
        return 0 if declared == 0xFFFFFFFF else declared + 8
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _end_of_segment(file)
    if head[:4] == b"FLV\x01":
        return _end_of_tags(file, size)
    return _check_boxes(file, size, name, known=head[4:] in _ISO)


def _end_of_segment(file: BinaryIO) -> int:
    """Find where the segment of a Matroska file ends; 0 if it was written live."""
    file.seek(4)
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _end_of_tags(file: BinaryIO, size: int) -> int:
    """Find out from the last tag of a Flash video, whose length follows it, whether it is whole."""
    length = _numbers(file, max(0, size - 4), 1)[0]
    start = size - 4 - length
    whole = 0 <= start < size and (_numbers(file, start, 1)[0] & 0xFFFFFF) + 11 == length
    return size if whole else size + 1


def _vint(file: BinaryIO) -> int | None:
    """Read a number of EBML; None if it is unknown or cut off."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + rest, "big")
    return None if len(rest) < more or value == (1 << 7 * (more + 1)) - 1 else value


@dataclass
class _Track:
    """The declared counts of one track of an ISO file."""

    samples: int = 0
    bytes_each: int = 1
    edits: int = 1
    handlers: set[bytes] = field(default_factory=set)
    sample_times: tuple[int, ...] = ()
    chunks: int = 0
    chunk_runs: bytes = b""

    def read(self, file: BinaryIO, kind: bytes, start: int, end: int) -> None:
        """Take over what a box of the track says."""
        if kind == b"stsz":
            each, self.samples = _numbers(file, start + 4, 2)
            self.bytes_each = max(1, each)
        elif kind == b"stz2":
            self.samples = _numbers(file, start + 8, 1)[0]
        elif kind == b"elst":
            self.edits = max(1, _numbers(file, start + 4, 1)[0])
        elif kind == b"hdlr":
            file.seek(start + 8)
            self.handlers.add(file.read(4))
        elif kind == b"stts":
            self.sample_times = _numbers(file, start + 4, 3)
        elif kind in (b"stco", b"co64"):
            self.chunks = _numbers(file, start + 4, 1)[0]
        elif kind == b"stsc":
            runs = min(_numbers(file, start + 4, 1)[0], MAX_SAMPLES)
            self.chunk_runs = file.read(min(12 * runs, max(0, end - file.tell())))

    def check(self, size: int, name: str) -> None:
        """Check that a demuxer can hold the index of the track.

        Raises:
            VideoError: there are more samples than the file has bytes, or than can be read.
        """
        entries = self.samples
        if b"soun" in self.handlers and b"vide" not in self.handlers and self.sample_times[::2] == (1, 1):
            entries = self._pcm_samples() // 1024 + self.chunks  # PCM is indexed 1024 samples at a time
        elif self.samples * self.bytes_each > size:
            raise _too_many(name, f"{self.samples:,} samples in {size:,} bytes")
        if entries > MAX_SAMPLES or (self.edits > 1 and entries * self.edits > _MAX_EDITED):
            raise _too_many(name, f"{entries:,} samples" + f" in {self.edits:,} edits" * (self.edits > 1))

    def _pcm_samples(self) -> int:
        runs = (
            np.frombuffer(self.chunk_runs[: len(self.chunk_runs) // 12 * 12], ">u4").reshape(-1, 3).astype(np.float64)
        )
        if not len(runs):
            return 0
        lengths = np.diff(np.append(runs[:, 0], self.chunks + 1))
        return int((lengths.clip(0) * runs[:, 1]).sum())


def _check_boxes(file: BinaryIO, size: int, name: str, known: bool) -> int:
    declared = fragments = 0
    tracks = [_Track()]
    for kind, start, end in _boxes(file, size, name):
        if known and kind in _DATA:
            declared = max(declared, end)
        if kind == b"trak":
            tracks.append(_Track())
        elif kind == b"trun":
            fragments += _numbers(file, start + 4, 1)[0]
        else:
            tracks[-1].read(file, kind, start, end)
    for track in tracks:
        track.check(size, name)
    if fragments > min(size, MAX_SAMPLES):
        raise _too_many(name, f"{fragments:,} samples in {size:,} bytes")
    return declared


def _boxes(file: BinaryIO, size: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Type, start of the contents and declared end of each box of an ISO file, inner ones after the outer."""
    start, ends = 0, [size]
    for _ in range(_MAX_BOXES):
        while ends and start + 8 > ends[-1]:
            start = ends.pop()
        if not ends:
            return
        file.seek(start)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        body = start + 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
            body = start + 16
        end = start + length if length else ends[-1]
        if end < body:
            return
        yield kind, body, end
        start = end
        if kind in _OUTER:
            ends.append(min(end, ends[-1]))
            start = body
    raise _too_many(name, f"over {_MAX_BOXES:,} boxes")


def _numbers(file: BinaryIO, place: int, count: int) -> tuple[int, ...]:
    file.seek(place)
    return struct.unpack(f">{count}I", file.read(4 * count).ljust(4 * count, b"\0"))


def _too_many(name: str, found: str) -> VideoError:
    return VideoError(
        f"{name} declares {found}: it is damaged, or made to exhaust memory. At most {MAX_SAMPLES:,} samples are read."
    )
