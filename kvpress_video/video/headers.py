"""Validate a file's header before a demuxer allocates memory for it."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from ..errors import VideoError

MAX_SAMPLES = 5_000_000
"""Maximum frames of a file, or samples of one of its tracks: 46 hours at 30 frames per second."""

_MAX_EDITED = 4 * MAX_SAMPLES
_MAX_BOXES = 1_000_000
_MAX_INFLATED = 64 << 20
_MAX_DESCRIBED = 16 << 20
_OUTER = frozenset(
    b"moov trak mdia minf stbl edts moof traf dinf mvex udta tref wave sinf schi ilst rmra rmda iprp ipco".split()
)
"""Boxes in which FFmpeg looks for others of any type, including misplaced ones."""
_DISGUISES = (b"free", b"hoov")
_SOUND = frozenset(
    b"raw |sowt|twos|NONE|lpcm|in24|in32|fl32|fl64|ulaw|alaw|ima4|MAC3|MAC6|agsm|.mp1|.mp2|.mp3|QDM2|QDMC|Qclp"
    b"|ms\x00\x02|ms\x00\x11|ms\x00\x55".split(b"|")
)
"""Sample entries of sound that may be counted in sample times instead of packets."""
_TABLES = re.compile(b"stsz|stz2|elst|trun|sgpd")
_DATA = (b"mdat", b"moov", b"moof")
_ISO = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"sidx")


def check_header(file: BinaryIO, name: str) -> int:
    """Check the declared numbers of samples, and determine where the file should end.

    A demuxer of MP4 and MOV allocates its index from declared counts, whatever the size of the file: a few bytes can
        request any amount of memory.

    Args:
        file: the video file, open for reading.
        name: name for messages.

    Returns:
        The declared size in bytes: more than the file has if it is truncated, 0 if the format does not declare it.

    Raises:
        VideoError: the file declares more samples than it can hold, or more than the maximum.
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
    declared = _check_boxes(file, size, size, name)
    return declared if head[4:] in _ISO else 0


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
    """Check from the last tag of a Flash video, whose length follows it, whether the file is complete."""
    length = _numbers(file, max(0, size - 4), 1)[0]
    start = size - 4 - length
    whole = 0 <= start < size and (_numbers(file, start, 1)[0] & 0xFFFFFF) + 11 == length
    return size if whole else size + 1


def _vint(file: BinaryIO) -> int | None:
    """Read an EBML number; None if it is unknown or truncated."""
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
    needed: int = 0
    edits: int = 1
    groups: int = 0
    handlers: set[bytes] = field(default_factory=set)
    entries: set[bytes] = field(default_factory=set)
    is_reordered: bool = False
    sample_times: set[tuple[int, ...]] = field(default_factory=set)
    chunks: int = 0
    chunk_runs: bytes = b""

    def read(self, file: BinaryIO, kind: bytes, start: int, end: int) -> None:
        """Read a box of the track."""
        if kind == b"stsz":
            each, samples = _numbers(file, start + 4, 2)
            self.samples, self.needed = max(self.samples, samples), max(self.needed, samples * max(1, each))
        elif kind == b"stz2":
            self.samples = max(self.samples, _numbers(file, start + 8, 1)[0])
        elif kind == b"elst":
            self.edits = max(self.edits, _numbers(file, start + 4, 1)[0])
        elif kind == b"sgpd":
            version, _, *counts = _numbers(file, start, 4)
            self.groups = max(self.groups, counts[bool(version >> 24)])
        elif kind == b"stsd":
            file.seek(start + 12)
            self.entries.add(file.read(4))
        elif kind == b"hdlr":
            file.seek(start + 8)
            self.handlers.add(file.read(4))
        elif kind == b"stts":
            self.sample_times.add(_numbers(file, start + 4, 3)[::2])
        elif kind == b"ctts":
            self.is_reordered = True
        elif kind in (b"stco", b"co64"):
            self.chunks = _numbers(file, start + 4, 1)[0]
        elif kind == b"stsc":
            runs = min(_numbers(file, start + 4, 1)[0], MAX_SAMPLES)
            self.chunk_runs = file.read(min(12 * runs, max(0, end - file.tell())))

    def check(self, size: int, name: str) -> None:
        """Check that a demuxer can hold the index of the track.

        Raises:
            VideoError: there are more samples than bytes in the file, or more than the maximum.
        """
        entries = self.samples
        if self._is_counted_sound():
            entries = self._pcm_samples() // 1024 + self.chunks  # PCM is indexed 1024 samples at a time
        elif max(self.samples, self.needed) > size:
            raise _too_many(name, f"{self.samples:,} samples in {size:,} bytes")
        if self.groups > min(size, MAX_SAMPLES):
            raise _too_many(name, f"{self.groups:,} groups of samples in {size:,} bytes")
        if entries > MAX_SAMPLES or (self.edits > 1 and entries * self.edits > _MAX_EDITED):
            raise _too_many(name, f"{entries:,} samples" + f" in {self.edits:,} edits" * (self.edits > 1))

    def _is_counted_sound(self) -> bool:
        """Whether each sample time of sound counts as a sample."""
        sound = b"soun" in self.handlers and b"vide" not in self.handlers
        plain = self.sample_times == {(1, 1)} and not self.is_reordered
        return sound and plain and bool(self.entries) and self.entries <= _SOUND

    def _pcm_samples(self) -> int:
        runs = (
            np.frombuffer(self.chunk_runs[: len(self.chunk_runs) // 12 * 12], ">u4").reshape(-1, 3).astype(np.float64)
        )
        if not len(runs):
            return 0
        lengths = np.diff(np.append(runs[:, 0], self.chunks + 1))
        return int((lengths.clip(0) * runs[:, 1]).sum())


def _check_boxes(file: BinaryIO, length: int, size: int, name: str) -> int:
    """Check the boxes of an ISO file of `size` bytes, or `length` bytes of compressed boxes in it.

    Returns:
        The declared end of its data.
    """
    declared = fragments = 0
    tracks = [_Track()]
    for kind, start, end in _boxes(file, length, name):
        if kind in _DATA:
            declared = max(declared, end)
        if kind == b"trak":
            tracks.append(_Track())
        elif kind == b"trun":
            fragments += _numbers(file, start + 4, 1)[0]
        elif kind == b"cmov":
            inflated = _inflated(file, start, min(end, length), name)
            _check_boxes(io.BytesIO(inflated), len(inflated), size, name)
        else:
            tracks[-1].read(file, kind, start, end)
        if kind == b"stsd":
            for inner, place in _tables_within(file, start, min(end, length), name):
                tracks[-1].read(file, inner, place, end)
    for track in tracks:
        track.check(size, name)
    if fragments > min(size, MAX_SAMPLES):
        raise _too_many(name, f"{fragments:,} samples in {size:,} bytes")
    return declared


def _tables_within(file: BinaryIO, start: int, end: int, name: str) -> Iterator[tuple[bytes, int]]:
    """Yield tables misplaced among the descriptions of samples, where FFmpeg reads them."""
    if end - start > _MAX_DESCRIBED:
        raise _too_many(name, f"descriptions of samples of {end - start:,} bytes")
    file.seek(start)
    for found in _TABLES.finditer(file.read(max(0, end - start))):
        yield found[0], start + found.end()


def _inflated(file: BinaryIO, start: int, end: int, name: str) -> bytes:
    """Inflate the compressed boxes of old QuickTime files."""
    file.seek(start)
    _, found, packed = file.read(max(0, end - start)).partition(b"cmvd")
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(packed[4:], _MAX_INFLATED) if found else b""
    except zlib.error:
        return b""
    if len(inflated) == _MAX_INFLATED and not inflater.eof:
        raise _too_many(name, f"a compressed header of over {_MAX_INFLATED:,} bytes")
    return inflated


def _boxes(file: BinaryIO, size: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start of the contents and declared end of each box of an ISO file, inner boxes after outer ones."""
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
        inner = _inner(file, kind, body, min(end, ends[-1]))
        if inner is not None:
            ends.append(min(end, ends[-1]))
            start = inner
    raise _too_many(name, f"over {_MAX_BOXES:,} boxes")


def _inner(file: BinaryIO, kind: bytes, start: int, end: int) -> int | None:
    """Return where the first box within a box begins, if FFmpeg looks for any."""
    if kind in _OUTER:
        return start
    if kind in _DISGUISES:
        file.seek(start + 4)
        return start if file.read(4) in (b"mvhd", b"cmov") else None
    if kind == b"meta":
        file.seek(start)
        head = file.read(min(_MAX_DESCRIBED, max(0, end - start)))
        return next((start + found.start() - 4 for found in re.finditer(b"hdlr", head) if not found.start() % 4), None)
    return None


def _numbers(file: BinaryIO, place: int, count: int) -> tuple[int, ...]:
    file.seek(place)
    return struct.unpack(f">{count}I", file.read(4 * count).ljust(4 * count, b"\0"))


def _too_many(name: str, found: str) -> VideoError:
    return VideoError(
        f"{name} declares {found}: it is damaged, or made to exhaust memory. At most {MAX_SAMPLES:,} samples are read."
    )
