"""Byte counts, durations and counts as people read them."""

from __future__ import annotations

import pytest

from kvpress_video.utils.formatting import format_bytes, format_seconds, plural


def test_sizes_and_times_are_written_in_three_digits() -> None:
    assert [format_bytes(size) for size in (999, 190_476, 2**20 * 1000, 2.5 * 2**30)] == [
        "999 B", "186 KiB", "1000 MiB", "2.5 GiB"
    ]  # fmt: skip
    assert [format_seconds(time) for time in (0.0123, 1.5, 1234.5)] == ["12.3 ms", "1.5 s", "1234 s"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1, "1 B"), (2**10 - 1, "1023 B"), (2**10, "1 KiB"), (2**20, "1 MiB"), (2**40, "1024 GiB")],
)
def test_the_unit_is_the_largest_that_is_filled(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_a_fixed_unit_has_two_decimals_whatever_the_size() -> None:
    assert [format_bytes(size, "MiB") for size in (2**10, 2**20, 3 * 2**30)] == ["0.00 MiB", "1.00 MiB", "3072.00 MiB"]


def test_a_count_of_one_is_singular() -> None:
    assert [plural(count, noun) for noun in ("clip", "entry") for count in (0, 1, 2)] == [
        "0 clips", "1 clip", "2 clips", "0 entries", "1 entry", "2 entries"
    ]  # fmt: skip
