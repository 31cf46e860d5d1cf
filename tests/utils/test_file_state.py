"""Changes of files that are noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvpress_video.utils.file_state import FileState, file_state, same_content

LARGE = 5 * 2**20


def written(path: Path, content: bytes, seconds: int = 0) -> FileState:
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))
    return file_state(path)


@pytest.mark.parametrize("size", [0, 1, 2**16, 2**20, 2**20 + 1, LARGE])
def test_the_same_file_is_the_same(tmp_path: Path, size: int) -> None:
    before = written(tmp_path / "a", bytes(size))
    assert before["size"] == size
    assert same_content(before, file_state(tmp_path / "a")) is True


@pytest.mark.parametrize("place", [0, 1, -1, LARGE // 2**16 // 2 * 2**16 - 1])
def test_a_byte_of_a_small_file_counts_wherever_it_is(tmp_path: Path, place: int) -> None:
    content = bytearray(2**20)
    before = written(tmp_path / "a", bytes(content))
    content[place % 2**20] = 1
    assert same_content(before, written(tmp_path / "a", bytes(content))) is False


def test_size_start_and_end_of_a_large_file_count(tmp_path: Path) -> None:
    before = written(tmp_path / "a", bytes(LARGE))
    for place in (0, -1):
        content = bytearray(LARGE)
        content[place] = 1
        assert same_content(before, written(tmp_path / "a", bytes(content))) is False
    assert same_content(before, written(tmp_path / "a", bytes(LARGE + 1))) is False


def test_a_large_file_that_was_written_again_with_equal_samples_is_unknown(tmp_path: Path) -> None:
    before = written(tmp_path / "a", bytes(LARGE))
    assert same_content(before, written(tmp_path / "a", bytes(LARGE), seconds=9)) is None
    small = written(tmp_path / "b", b"text")
    assert same_content(small, written(tmp_path / "b", b"text", seconds=9)) is True
