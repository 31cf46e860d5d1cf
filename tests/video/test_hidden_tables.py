"""Headers of MP4 and MOV that ask for memory from where none looks for it: FFmpeg finds them all."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from video_files import numbers_of, write_video

from kvpress_video.errors import VideoError
from kvpress_video.video import headers
from kvpress_video.video.reader import read_video

MANY = 100_000_000
TRACK = (b"moov", b"trak")
TABLES = (*TRACK, b"mdia", b"minf", b"stbl")
GROUPS = struct.pack(">I4sII", 1 << 24, b"sync", 1, MANY)


def box(kind: bytes, contents: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(contents), kind) + contents


def put(data: bytes, path: Sequence[bytes], inner: bytes) -> bytes:
    """Add a box to the end of another, of which the types of those around it are given."""
    changed, place = bytearray(data), 0
    starts = [place := changed.index(kind, place) - 4 for kind in path]
    end = starts[-1] + struct.unpack_from(">I", changed, starts[-1])[0]
    changed[end:end] = inner
    for start in starts:
        struct.pack_into(">I", changed, start, struct.unpack_from(">I", changed, start)[0] + len(inner))
    return bytes(changed)


def renamed(data: bytes, **kinds: str) -> bytes:
    for old, new in kinds.items():
        data = data.replace(old.encode(), new.encode().ljust(4))
    return data


def claiming(data: bytes, count: int) -> bytes:
    """Say that the track has that many samples, of a byte each, in one chunk."""
    changed = bytearray(data)
    for table, offset, values in (("stsz", 4, (1, count)), ("stts", 4, (1, count, 1)), ("stsc", 12, (count,))):
        struct.pack_into(f">{len(values)}I", changed, changed.index(table.encode()) + 4 + offset, *values)
    return bytes(changed)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=8, options={"bf": "2"}).read_bytes()


def split(clip: bytes) -> tuple[bytes, bytes]:
    """The file up to its header, and the boxes in that."""
    place = clip.index(b"moov")
    return clip[: place - 4], clip[place + 4 :]


def compressed(inner: bytes) -> bytes:
    packed = box(b"cmvd", struct.pack(">I", len(inner)) + zlib.compress(inner))
    return box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + packed))


def in_a_disguise(kind: bytes) -> Callable[[bytes], bytes]:
    return lambda clip: b"".join((split(clip)[0], box(kind, split(claiming(clip, MANY))[1])))


def in_another_box(kind: str) -> Callable[[bytes], bytes]:
    return lambda clip: renamed(claiming(clip, MANY), stbl=kind)


def in_compression(clip: bytes) -> bytes:
    return split(clip)[0] + compressed(box(b"moov", split(claiming(clip, MANY))[1]))


def in_metadata(clip: bytes) -> bytes:
    start, inner = split(claiming(clip, MANY))
    return start + box(b"moov", box(b"meta", bytes(4) + box(b"hdlr", bytes(25)) + inner))


def in_a_description(clip: bytes) -> bytes:
    table = box(b"stsz", struct.pack(">III", 0, 1, MANY))
    return put(renamed(clip, stsz="free"), (*TABLES, b"stsd", b"avc1"), table)


def in_sound(clip: bytes) -> bytes:
    return renamed(claiming(clip, MANY), vide="soun")


def in_sound_that_is_reordered(clip: bytes) -> bytes:
    return renamed(claiming(clip, MANY), vide="soun", avc1="sowt")


def in_a_second_table(clip: bytes) -> bytes:
    table = box(b"stsz", struct.pack(">III", 0, 1, MANY))
    at = clip.index(b"stsz") - 4
    grown = put(clip, TABLES, table)
    return grown[:at] + table + grown[at : -len(table)]


def in_groups_of(kind: bytes) -> Callable[[bytes], bytes]:
    return lambda clip: put(clip, (*TRACK, b"mdia", b"minf"), box(kind, box(b"sgpd", GROUPS)))


HIDDEN = {
    **{f"{kind} as header": in_a_disguise(kind.encode()) for kind in ("free", "hoov")},
    **{f"in {kind}": in_another_box(kind) for kind in ("dinf", "udta", "wave", "sinf", "tref", "mvex")},
    **{f"groups in {kind}": in_groups_of(kind.encode()) for kind in ("stbl", "dinf", "schi", "ilst", "edts", "traf")},
    **{
        hide.__name__.replace("_", " "): hide
        for hide in (
            in_compression,
            in_metadata,
            in_a_description,
            in_sound,
            in_sound_that_is_reordered,
            in_a_second_table,
        )
    },
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_table_is_found(clip: bytes, name: str) -> None:
    with pytest.raises(VideoError, match=r"declares 100,000,000 (samples|groups of samples) in \d,\d+ bytes"):
        read_video(HIDDEN[name](clip))


def test_compressed_headers_are_read(clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    start, inner = split(clip)
    header = box(b"moov", inner)
    assert numbers_of(read_video(start + compressed(header)).frames) == list(range(8))
    monkeypatch.setattr(headers, "_MAX_INFLATED", len(header) - 1)
    with pytest.raises(VideoError, match=r"declares a compressed header of over \d+ bytes"):
        read_video(start + compressed(header))


def test_titles_are_no_tables(clip: bytes, tmp_path: Path) -> None:
    """`trun` and `elst` begin words, too."""
    titles = b"".join(
        box(b"\xa9nam", box(b"data", struct.pack(">II", 1, 0) + word)) for word in (b"trunk", b"elsternest")
    )
    told = put(clip, (b"moov",), box(b"udta", box(b"meta", bytes(4) + box(b"hdlr", bytes(25)) + box(b"ilst", titles))))
    assert numbers_of(read_video(told).frames) == list(range(8))
