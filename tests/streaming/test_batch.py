"""Sessions that are asked as one batch, against the same sessions asked one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sessions import PLACED, ask, cache_of, check_same, footage, frames_for, tiny, usage_of

import kvpress_video as kv
from kvpress_video.cache.uncompressed import states


def lives(count: int, **options: Any) -> list[kv.VideoSession]:
    """Sessions of different lengths, budgets and pasts; the first has seen nothing."""
    sessions = [tiny(**options)]
    for number in range(1, count):
        session = tiny(budget=24 + number % 3, **options)
        session.push(footage(2 + 3 * number, seed=number))
        if number % 4 == 3:
            session.ask("And " * (number % 5), max_new_tokens=3)
        sessions.append(session)
    return sessions


def same_caches(found: kv.VideoSession, wanted: kv.VideoSession) -> None:
    for ours, theirs in zip(found.stream.layers, wanted.stream.layers, strict=True):
        assert torch.equal(ours.tags, theirs.tags)
        assert torch.equal(ours.places.nan_to_num(), theirs.places.nan_to_num())
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=0, atol=2e-5)
        torch.testing.assert_close(ours.values, theirs.values, rtol=0, atol=2e-5)
        assert (ours.rows, ours.logical) == (theirs.rows, theirs.logical)
    others = states(wanted.stream.cache)
    for name, state in states(found.stream.cache).items():
        torch.testing.assert_close(state, others[name], rtol=1e-4, atol=2e-5)
    assert found.stream.timeline == wanted.stream.timeline
    assert found.turns == wanted.turns


@pytest.mark.sampled
@pytest.mark.parametrize(("family", "positions"), PLACED)
def test_a_batch_answers_as_each_would_alone(family: str, positions: Any) -> None:
    together, alone = (
        [tiny(budget=24 + n % 3, family=family, positions=positions) for n in range(6)] for _ in range(2)
    )
    for number, pair in enumerate(zip(together, alone, strict=True)):
        for session in pair:
            session.push(frames_for(family, 2 + 3 * number, seed=number))
    for round_ in range(2):
        questions = [f"What is {'so ' * ((number + round_) % 4)}new?" for number in range(6)]
        answers = kv.ask_all(together, questions, max_new_tokens=5)
        assert answers == [s.ask(question, max_new_tokens=5) for s, question in zip(alone, questions, strict=True)]
        for ours, theirs in zip(together, alone, strict=True):
            same_caches(ours, theirs)
            for session in (ours, theirs):
                session.push(frames_for(family, 5, seed=round_))


@pytest.mark.slow
def test_thirty_two_sessions_of_the_bundled_model() -> None:
    model, processor = kv.load_bundled()
    together, alone = [], []
    for number in range(32):
        for sessions in (together, alone):
            session = kv.VideoSession(
                model, processor, ("infinipot-v", "random", "novelty")[number % 3], 64 + number % 5
            )
            session.push(footage(6 + number % 7, 112, 112, seed=number))
            sessions.append(session)
    questions = ["What colour is it?" if number % 2 else "Where is the heart now?" for number in range(32)]
    singly = [session.ask(question, max_new_tokens=6) for session, question in zip(alone, questions, strict=True)]
    assert kv.ask_all(together, questions, max_new_tokens=6) == singly
    for ours, theirs in zip(together, alone, strict=True):
        same_caches(ours, theirs)


def test_sessions_of_all_pasts_share_a_batch() -> None:
    together, alone = lives(9), lives(9)
    assert kv.ask_all(together, "What?", max_new_tokens=4) == [s.ask("What?", max_new_tokens=4) for s in alone]
    for ours, theirs in zip(together, alone, strict=True):
        same_caches(ours, theirs)
    for ours, theirs in zip(together[:3], alone[:3], strict=True):
        for found, wanted in zip(usage_of(ours), usage_of(theirs), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4, equal_nan=True)


def test_an_answer_that_ends_early_leaves_no_filler_behind() -> None:
    """Rows end at different tokens; what the batch adds to those that are done belongs to nobody."""
    together, alone = lives(6), lives(6)
    replies = [ask(session.fork(), "What?", max_new_tokens=6).reply for session in alone]
    options: Any = {"max_new_tokens": 6, "eos_token_id": sorted({reply[1] for reply in replies[::2]})}
    assert kv.ask_all(together, "What?", **options) == [session.ask("What?", **options) for session in alone]
    lengths = {session.stats.text_entries for session in together}
    assert len(lengths) > 1
    for ours, theirs in zip(together, alone, strict=True):
        same_caches(ours, theirs)


def test_what_is_not_kept_leaves_no_trace() -> None:
    sessions = lives(5)
    for session in sessions:
        session.flush()
    before = [cache_of(session) for session in sessions]
    answers = kv.ask_all(sessions, "What?", keep=False, max_new_tokens=4)
    assert len(answers) == 5
    for session, held in zip(sessions, before, strict=True):
        check_same(cache_of(session), held)
    assert kv.ask_all(sessions, "What?", keep=False, max_new_tokens=4) == answers


def test_a_turn_of_a_batch_can_be_taken_back() -> None:
    sessions = lives(4)
    for session in sessions:
        session.flush()
    before = [cache_of(session) for session in sessions]
    kv.ask_all(sessions, "What?", max_new_tokens=4)
    for session, held in list(zip(sessions, before, strict=True))[1:]:
        session.take_back()
        check_same(cache_of(session), held)


def test_nobody_is_asked_when_one_has_no_room() -> None:
    roomy, tight = tiny(budget="200KiB", text_room=50), tiny(budget="60KiB", text_room=20)
    for session in (roomy, tight):
        session.push(footage(20))
        session.flush()
    before = [cache_of(session) for session in (roomy, tight)]
    with pytest.raises(kv.BudgetError, match="the budget has room for"):
        kv.ask_all([roomy, tight], "What?", max_new_tokens=10)
    for session, held in zip((roomy, tight), before, strict=True):
        check_same(cache_of(session), held)
        assert not session.turns


def test_sessions_that_do_not_belong_together() -> None:
    one, other = tiny(), tiny()
    assert kv.ask_all([], []) == []
    with pytest.raises(kv.CacheError, match="2 questions for 1 sessions"):
        kv.ask_all([one], ["What?", "Why?"])
    with pytest.raises(kv.CacheError, match="given twice"):
        kv.ask_all([one, one], "What?")
    with pytest.raises(kv.CacheError, match="keep their positions"):
        kv.ask_all([one, tiny(positions="keep")], "What?")
    with pytest.raises(kv.CacheError, match="several models"):
        kv.ask_all([other, kv.VideoSession(*kv.load_bundled(), "random", 64)], "What?")
