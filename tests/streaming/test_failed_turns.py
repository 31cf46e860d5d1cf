"""What fails between the steps of a turn: a session is as it was, or says at every use that it is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from failures import at_call, fail, interrupt
from sessions import cache_of, check_same, footage, tiny, usage_of

import kvpress_video as kv
from kvpress_video.cache.buffers import Buffers
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Places
from kvpress_video.streaming import stream
from kvpress_video.streaming.conversation import Conversation

LIMIT = 160  # positions, so few that they are rescaled
WHAT = "What is it then?"


def watched(**options: Any) -> kv.VideoSession:
    session = tiny(**options)
    session.push(footage(40))
    session.flush()
    return session


def nearly_full() -> kv.VideoSession:
    """A session whose next question makes it rescale its positions."""
    session = watched(position_limit=LIMIT)
    while session.stats.position < LIMIT - 60:
        session.ask("Hm?", max_new_tokens=4)
    return session


def follows_what_it_holds(session: kv.VideoSession) -> bool:
    """Whether the next text stands right behind what every layer holds."""
    highest = [float(layer.places[..., Places.PRESENT].max()) for layer in session.stream.layers]
    return highest == [session.stats.position - 1] * len(highest)


# --- Rescaling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [1, 3])
def test_rescaling_that_fails_between_layers_breaks_the_session(layer: int) -> None:
    session = nearly_full()
    with at_call(layer + 1, CompressedLayer, "move", fail), pytest.raises(OSError, match="lost"):
        session.ask(WHAT, max_new_tokens=6)
    uses: list[Callable[[], Any]] = [
        lambda: session.ask(WHAT, max_new_tokens=3),
        lambda: session.push(footage(40)),
        session.take_back,
        session.fork,
    ]
    for use in uses:
        with pytest.raises(kv.CacheError, match="failed halfway"):
            use()


def test_rescaling_that_fails_before_the_first_layer_changes_nothing() -> None:
    session, other = nearly_full(), nearly_full()
    with at_call(1, stream, "rescale_to", fail), pytest.raises(OSError, match="lost"):
        session.ask(WHAT, max_new_tokens=6)
    check_same(usage_of(session), usage_of(other))


def test_ctrl_c_between_the_layers_of_a_rescaling() -> None:
    """The rescaling is finished, nothing is asked."""
    session, other = nearly_full(), nearly_full()
    with at_call(2, CompressedLayer, "move", interrupt), pytest.raises(KeyboardInterrupt):
        session.ask(WHAT, max_new_tokens=6)
    other.ask(WHAT, max_new_tokens=6, keep=False)
    check_same(usage_of(session), usage_of(other))


def test_a_turn_is_taken_back_after_a_rescaling() -> None:
    session = nearly_full()
    turns, position = len(session.turns), session.stats.position
    session.ask(WHAT, max_new_tokens=6, keep=False)
    assert session.stats.position < position
    assert follows_what_it_holds(session)
    session.take_back()
    assert len(session.turns) == turns - 1
    assert follows_what_it_holds(session)
    session.ask(WHAT, max_new_tokens=6)
    assert follows_what_it_holds(session)


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.sampled
@pytest.mark.parametrize("what", [fail, interrupt])
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(CompressedLayer, "extend", 1), (CompressedLayer, "extend", 3), (CompressedLayer, "extend", 6),
     (Conversation, "answered", 1), (Conversation, "answered", 2)],
)  # fmt: skip
def test_answers_of_a_batch_that_are_not_all_handed_back(
    owner: Any, name: str, number: int, what: Callable[[], None]
) -> None:
    sessions, others = [watched(), watched(method="random")], [watched(), watched(method="random")]
    for each in (*sessions, *others):
        each.ask("First?", max_new_tokens=3)
    before = [cache_of(session) for session in sessions]
    with at_call(number, owner, name, what), pytest.raises((OSError, KeyboardInterrupt)):
        kv.ask_all(sessions, WHAT, max_new_tokens=4)
    for session, other, held in zip(sessions, others, before, strict=True):
        check_same(cache_of(session), held)
        assert session.turns == other.turns
        session.take_back()
        other.take_back()
        check_same(usage_of(session), usage_of(other))


@pytest.mark.parametrize("what", [fail, interrupt])
@pytest.mark.parametrize("name", ["answered", "text"])
def test_an_answer_that_cannot_be_recorded(name: str, what: Callable[[], None]) -> None:
    session, other = watched(), watched()
    with at_call(1, Conversation, name, what), pytest.raises((OSError, KeyboardInterrupt)):
        session.ask(WHAT, max_new_tokens=6)
    assert not session.turns
    check_same(usage_of(session), usage_of(other))


@pytest.mark.parametrize("keep", [False, True])
def test_an_answer_whose_metadata_cannot_be_written(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata of decoded tokens is written late; what takes the answer back needs none of it."""
    session, other = watched(), watched()

    def broken(buffers: Buffers) -> None:
        if buffers._late:
            fail()

    with monkeypatch.context() as patched:
        patched.setattr(Buffers, "_write_late", broken)
        session.ask(WHAT, max_new_tokens=6, keep=keep)
        if keep:
            with pytest.raises(OSError, match="lost"):
                session.ask(WHAT, max_new_tokens=6)
    if keep:
        other.ask(WHAT, max_new_tokens=6)
    check_same(usage_of(session), usage_of(other))


def test_a_turn_is_not_taken_back_from_a_broken_session() -> None:
    session = watched()
    session.ask(WHAT, max_new_tokens=4)
    with at_call(3, CompressedLayer, "keep", fail), pytest.raises(OSError, match="lost"):
        session.push(footage(40, seed=1))
    for use in (session.take_back, lambda: session.ask(WHAT, max_new_tokens=3), session.snapshot):
        with pytest.raises(kv.CacheError, match="failed halfway"):
            use()
