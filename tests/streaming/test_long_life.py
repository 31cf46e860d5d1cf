"""Sessions that live long: what they hold, what they keep on the host, and what a file takes, is flat."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from sessions import STREAMED, frames_for, tiny

import kvpress_video as kv


def _host_bytes(session: kv.VideoSession) -> int:
    """Bytes of what a session keeps on the host, numbers of one size: lists that grow make it grow."""
    state = session.snapshot().state
    return len(pickle.dumps((state.stream.timeline, state.stream.rows, state.conversation, state.queue)))


def _facts_bytes(session: kv.VideoSession, path: Path) -> int:
    session.save(path)
    with safe_open(path, "pt") as file:
        return len(json.dumps(json.loads(file.metadata()["facts"])["session"]))


def _sizes(session: kv.VideoSession, path: Path) -> tuple[int, int, int]:
    return session.stats.bytes, _host_bytes(session), _facts_bytes(session, path)


def _live(family: str, frames: int, path: Path, **options: Any) -> list[tuple[int, int, int]]:
    """Sizes along a session of so many frames, in pushes of sixteen with a question behind each."""
    session = tiny("infinipot-v", 120, family, position_limit=2000, chunk=120, **options)
    found = []
    for part in range(frames // 16):
        session.push(frames_for(family, 16, seed=part % 7), 1000.0 + np.arange(16) + 16 * part)
        session.ask("What?", max_new_tokens=2, keep=False)
        if part % 3 == 0:
            session.ask("Who?", max_new_tokens=2)
            session.take_back()
        if part >= 20 and part % max(1, frames // 160) == 0:
            found.append(_sizes(session, path))
        assert max(map(sum, zip(session.stats.entries, session.stats.label_entries, strict=True))) <= 120
    return found


def _check_flat(sizes: list[tuple[int, int, int]]) -> None:
    held, host, facts = zip(*sizes, strict=True)
    assert max(held) == min(held)
    assert max(host) - min(host) < 800  # digits of numbers, and labels by the frame
    assert max(facts) - min(facts) < 2500


@pytest.mark.slow
@pytest.mark.parametrize("family", STREAMED[:1])
def test_a_thousand_frames(family: str, tmp_path: Path) -> None:
    _check_flat(_live(family, 1000, tmp_path / "a.kvv"))


@pytest.mark.slow
@pytest.mark.parametrize("family", STREAMED)
def test_ten_thousand_frames(family: str, tmp_path: Path) -> None:
    _check_flat(_live(family, 10_000, tmp_path / "a.kvv"))
