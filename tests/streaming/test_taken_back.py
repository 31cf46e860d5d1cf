"""Questions that leave no trace: not kept, taken back, failed, alone or in a batch, in every family.

Entries are dropped again; windows and recurrences cannot forget, and come back as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sessions import PER_FAMILY, Notes, cache_of, check_same, frames_for, tiny
from torch import Tensor

import kvpress_video as kv


class Broken:
    """A logits processor that fails at the third token."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.tokens += 1
        if self.tokens == 3:
            raise OSError("nobody there")
        return scores


def _not_kept(session: kv.VideoSession) -> None:
    session.ask("What?", max_new_tokens=5, keep=False)


def _taken_back(session: kv.VideoSession) -> None:
    session.ask("What?", max_new_tokens=5)
    session.take_back()


def _failed(session: kv.VideoSession) -> None:
    with pytest.raises(OSError, match="nobody there"):
        session.ask("What?", max_new_tokens=5, logits_processor=[Broken()])


def _closed(session: kv.VideoSession) -> None:
    answer = session.stream_answer("What?", max_new_tokens=9)
    next(answer)
    answer.close()


def _not_kept_together(session: kv.VideoSession) -> None:
    kv.ask_all([session, session.fork()], ["What?", "And this?"], max_new_tokens=5, keep=False)


def _failed_together(session: kv.VideoSession) -> None:
    with pytest.raises(OSError, match="nobody there"):
        kv.ask_all([session, session.fork()], "What?", max_new_tokens=5, logits_processor=[Broken()])


def _asked_twice(session: kv.VideoSession) -> None:
    session.ask("What?", max_new_tokens=5, keep=False)
    session.ask("Who?", max_new_tokens=2)
    session.ask("And then?", max_new_tokens=2, keep=False)
    session.take_back()


def _a_fork_went_on(session: kv.VideoSession) -> None:
    fork = session.fork()
    fork.push(frames_for(session.model.config.model_type, 6, seed=8))
    fork.ask("What?", max_new_tokens=5)


WAYS = [_not_kept, _taken_back, _failed, _closed, _not_kept_together, _failed_together, _asked_twice, _a_fork_went_on]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", PER_FAMILY)
def test_a_question_without_a_trace(family: str, way: Callable[[kv.VideoSession], None]) -> None:
    session, silent = (tiny("infinipot-v", 40, family, chunk=20) for _ in range(2))
    for each in (session, silent):
        each.push(frames_for(family, 12), np.arange(12))
        each.ask("Hello", max_new_tokens=3)
        each.push(frames_for(family, 8, seed=1), np.arange(8) + 20.0)
        each.flush()
    before: list[Any] = [cache_of(session), session.stream.timeline, session.turns[:], session.stats.position]
    way(session)
    check_same(cache_of(session), before[0])
    assert [session.stream.timeline, session.turns, session.stats.position] == before[1:]
    for each in (session, silent):
        each.push(frames_for(family, 6, seed=2), np.arange(6) + 40.0)
    notes = [Notes(), Notes()]
    for each, heard in zip((session, silent), notes, strict=True):
        each.ask("And now?", max_new_tokens=4, logits_processor=[heard])
    check_same(notes[0].logits, notes[1].logits)
    check_same(cache_of(session), cache_of(silent))
