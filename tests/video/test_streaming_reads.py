"""Videos read in groups: no more is decoded, held or left open than what is asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_files import looped, numbers_of, write_video

import kvpress_video as kv
from kvpress_video.video import decoding
from kvpress_video.video.reader import frame_rate, read_in_groups, read_video

MIB = 1 << 20


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of 768 × 576 at 25 frames a second."""
    folder = tmp_path_factory.mktemp("long")
    part = write_video(folder / "part.mp4", frames=50, rate=25, size=(576, 768), options={"preset": "ultrafast"})
    return looped(part, folder / "long.mp4", 300)


def is_open(path: Path) -> bool:
    """Whether this process has a file open."""
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if os.readlink(descriptor) == str(path):
                return True
        except OSError:
            continue
    return False


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def decoded_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each frame that is decoded."""
    seen: list[int] = []
    real: Callable[..., Iterator[Any]] = decoding.decoded

    def counting(packets: Iterable[Any], source: Any) -> Iterator[Any]:
        for frame in real(packets, source):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoding, "decoded", counting)
    return seen


def test_groups_hold_the_frames_of_the_whole(long: Path) -> None:
    count, groups = read_in_groups(long, fps=5, end=20, size=32)
    found = list(groups)
    assert (count, [len(group) for group in found]) == (4, [32, 32, 32, 4])
    assert [number for group in found for number in numbers_of(group.frames)] == [5 * n % 50 for n in range(100)]
    assert [time for group in found for time in group.times] == pytest.approx([n / 5 for n in range(100)])
    assert {(group.fps, group.duration, group.path) for group in found} == {(5.0, 600.0, long)}


def test_no_frame_is_decoded_before_it_is_asked_for(long: Path, decoded_frames: list[int]) -> None:
    _, groups = read_in_groups(long, fps=None, size=8)
    assert not decoded_frames
    for taken in range(1, 4):
        next(groups)
        assert len(decoded_frames) == 8 * taken


def test_a_few_frames_of_a_long_video_are_found_by_seeking(long: Path, decoded_frames: list[int]) -> None:
    assert numbers_of(read_video(long, frames=16).frames) == [0, 37, 25, 12] * 4
    assert len(decoded_frames) < 16 * 51


def test_files_are_closed_as_soon_as_the_frames_are_out(long: Path) -> None:
    read_video(long, frames=2)
    frame_rate(long)
    count, groups = read_in_groups(long, end=2, size=25)
    assert not is_open(long)
    next(groups)
    assert is_open(long)
    assert len(list(groups)) == count - 1
    assert not is_open(long)


def test_a_stream_that_is_abandoned_is_closed(long: Path) -> None:
    _, groups = read_in_groups(long)
    next(groups)
    groups.close()
    assert not is_open(long)


def test_a_stream_whose_consumer_fails_is_closed(long: Path, bundled: tuple[Any, Any]) -> None:
    session = kv.VideoSession(*bundled, "tar", budget=64)
    session.push(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(kv.VideoError, match="were pushed to a stream of 8×8") as said:
        session.push_video(long)
    assert said.traceback
    assert not is_open(long)


@pytest.mark.slow
def test_memory_stays_flat_while_the_consumer_sleeps(long: Path) -> None:
    """A model takes its time for each group; the reader must not run ahead of it."""
    _, groups = read_in_groups(long, fps=None)
    for _ in range(4):
        next(groups)
    start, table = resident(), []
    began = time.monotonic()
    for number, _ in enumerate(groups):
        if number % 20 == 0:
            time.sleep(1)
            table.append((time.monotonic() - began, 32 * (number + 5), (resident() - start) / MIB))
    print(*(f"{seconds:5.1f} s  {frames:6d} frames  {grown:+6.1f} MiB" for seconds, frames, grown in table), sep="\n")
    assert len(table) > 20
    assert max(grown for _, _, grown in table) < 64
