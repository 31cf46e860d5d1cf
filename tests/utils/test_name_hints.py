"""The suggestion for an unknown name."""

from __future__ import annotations

import pytest

from kvpress_video.errors import unknown_name

KNOWN = ["infinipot-v", "memory-bank", "random", "recent", "sink-window", "snapkv", "standby", "standby-novelty", "van"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("recnt", "recent"),
        ("infinipot", "infinipot-v"),
        ("snap-kv", "snapkv"),
        ("SnapKV", "snapkv"),
        ("VaN", "van"),
        ("StandbyNovelty", "standby-novelty"),
        ("standby_novelti", "standby-novelty"),
        ("stand", "standby"),
        ("sink", "sink-window"),
        ("bank", "memory-bank"),
    ],
)
def test_the_obvious_name_is_suggested(written: str, meant: str) -> None:
    assert f"Did you mean {meant!r}?" in str(unknown_name("method", written, KNOWN, "kvpress-video methods"))


@pytest.mark.parametrize("written", ["h2o", "xyz", "", "-", "a"])
def test_nothing_is_suggested_for_a_name_like_no_other(written: str) -> None:
    assert "Did you mean" not in str(unknown_name("method", written, KNOWN))
