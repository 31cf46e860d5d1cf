"""What goes wrong in a session leaves it as it was, and a budget of bytes is never exceeded."""

from __future__ import annotations

import math
import os
import signal
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import model_of
from sessions import (
    OPTIONS,
    QWEN,
    TinyProcessor,
    cache_of,
    check_same,
    differing,
    footage,
    tiny,
    usage_of,
)
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Entries

BAD_FRAMES: dict[str, Any] = {
    "none": None,
    "an empty list": [],
    "text": "frame.png",
    "no frames": np.zeros((0, 16, 16, 3), np.uint8),
    "no pixels": np.zeros((0, 0, 3), np.uint8),
    "grey": np.zeros((16, 16), np.uint8),
    "four colours": np.zeros((16, 16, 4), np.uint8),
    "five dimensions": np.zeros((1, 1, 16, 16, 3), np.uint8),
    "fractions above one": np.full((16, 16, 3), 2.0),
    "not a number": np.full((16, 16, 3), np.nan),
    "negative": np.full((16, 16, 3), -1),
    "too large": np.full((16, 16, 3), 256),
    "true and false": np.zeros((16, 16, 3), bool),
    "objects": np.full((16, 16, 3), None),
    "two sizes": [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 24, 3), np.uint8)],
    "another size": np.zeros((24, 16, 3), np.uint8),
    "one good, one bad": [np.zeros((16, 16, 3), np.uint8), None],
    "complex": np.zeros((16, 16, 3), complex),
}
BAD_TIMES: dict[str, Any] = {
    "too few": [100.0],
    "too many": [100.0, 101.0, 102.0],
    "standing still": [100.0, 100.0],
    "going back": [101.0, 100.0],
    "before the last frame": [3.0, 100.0],
    "at the last frame": [4.5, 10.0],
    "not a number": [100.0, math.nan],
    "for ever": [100.0, math.inf],
    "one for two": 100.0,
    "nothing": [None, None],
    "words": ["soon", "later"],
    "no list at all": object(),
    "later than any clock": [100.0, 1e300],
    "before any clock": [-1e300, 100.0],
    "milliseconds since 1970": [1.75e12, 1.75e12 + 500],
}


@pytest.mark.sampled
@pytest.mark.parametrize("what", [*BAD_FRAMES, *BAD_TIMES])
def test_a_refused_push_leaves_the_session_unchanged(what: str) -> None:
    session, other = tiny(), tiny()
    for each in (session, other):
        each.push(footage(10))
    stats = session.stats
    frames = BAD_FRAMES.get(what, footage(2)) if what != "none" else None
    with pytest.raises(kv.VideoError):
        session.push(frames, BAD_TIMES.get(what))
    assert session.stats == stats
    check_same(usage_of(session), usage_of(other))


def test_the_first_push_can_be_refused_too() -> None:
    session = tiny()
    with pytest.raises(kv.VideoError):
        session.push(footage(2), [1, 1])
    with pytest.raises(kv.VideoError):
        session.push(np.zeros((16, 16), np.uint8))
    session.push(footage(20, 24, 24))
    assert session.stats.frames == 20


def test_a_frame_size_is_not_set_by_frames_that_were_refused() -> None:
    """The chunk is as many frames as fit of the size that comes."""
    session, other = tiny(chunk=32), tiny(chunk=32)
    with pytest.raises(kv.VideoError):
        session.push(footage(2, 32, 32), [1, 1])
    for each in (session, other):
        each.push(footage(21))
    assert (session.stats.waiting, session.stats.frames) == (other.stats.waiting, 21)
    check_same(cache_of(session), cache_of(other))


@pytest.mark.parametrize("start", [-1e10, 1.75e9, 1e10 - 40])
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_times_of_any_clock(start: float, positions: Any) -> None:
    """Seconds since 1970 are as good as seconds since the beginning."""
    session, other = tiny(positions=positions), tiny(positions=positions)
    session.push(footage(40), start + np.arange(40))
    other.push(footage(40), np.arange(40))
    assert session.stats.seconds == start + 39
    check_same(cache_of(session), cache_of(other))


def test_times_beyond_what_is_told_apart() -> None:
    """Frames that are told no times follow the last one, however far that leads."""
    slow, fast = tiny(fps=1e-9), tiny(fps=1e12)
    slow.push(footage(11))
    fast.push(footage(2), [0, 1e9])
    for session, said in (
        (slow, r"within ±1e\+10 seconds, got 1.1e\+10"),
        (fast, "Times do not advance at 1e.09 s with 1e.12"),
    ):
        stats = session.stats
        with pytest.raises(kv.VideoError, match=said):
            session.push(footage(3))
        assert session.stats == stats
        assert session.ask("What?", max_new_tokens=3)


def test_frames_that_the_processor_refuses_leave_the_session_as_it_was(bundled: tuple[Any, Any]) -> None:
    """A frame three hundred times as wide as high."""
    session = kv.VideoSession(*bundled, "random", 64)
    with pytest.raises((kv.VideoError, ValueError)):
        session.push(footage(8, 4, 1200))
    assert session.stats.frames == session.stats.waiting == 0
    session.push(footage(8, 112, 112))
    assert session.ask("What is there?", max_new_tokens=3)


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"method": "infinipot-v"}, kv.BudgetError, "'infinipot-v' needs a budget"),
        ({"budget": "25%"}, kv.BudgetError, "25% is not a cap: give a budget of visual entries or bytes"),
        ({"budget": 0.5}, kv.BudgetError, "50% is not a cap"),
        (
            {"budget": 0},
            kv.BudgetError,
            r"above zero, got 0 tokens\. Write e\.g\. 6144 \(visual entries\) or '256MiB'\.$",
        ),
        (
            {"budget": "many"},
            kv.BudgetError,
            r"Cannot read the budget 'many'\. Write e\.g\. 6144 \(visual entries\) or",
        ),
        ({"method": "infinipot", "budget": 64}, kv.UnknownNameError, "Did you mean 'infinipot-v'"),
        ({"budget": 64, "pooled": True}, kv.UnknownNameError, "Did you mean 'pooling'"),
        ({"budget": 64, "positions": "compacted"}, kv.UnknownNameError, "Did you mean 'compact'"),
        ({"budget": 64, "fps": 0}, kv.BudgetError, "fps must be a number above zero"),
        ({"budget": 64, "fps": math.nan}, kv.BudgetError, "fps must be a number above zero"),
        ({"budget": 64, "fps": math.inf}, kv.BudgetError, "fps"),
        ({"budget": 64, "chunk": 0}, kv.BudgetError, "chunk must be at least 1, got 0"),
        (
            {"budget": 64, "chunk": 10**12},
            kv.BudgetError,
            "chunk must be at most 2147483647 visual tokens, got 1000000",
        ),
        ({"budget": 10**19}, kv.BudgetError, r"A budget must be below 2\*\*63"),
        ({"budget": 64, "chunk": 2.5}, kv.BudgetError, r"chunk must be a whole number, got 2\.5"),
        ({"budget": 64, "chunk": True}, kv.BudgetError, "chunk must be a whole number, got True"),
        ({"budget": 64, "chunk": "many"}, kv.BudgetError, "chunk must be a whole number, got 'many'"),
        ({"budget": 64, "fps": "2"}, kv.BudgetError, "fps must be a number above zero, got '2'"),
        ({"budget": 64, "position_limit": 0}, kv.BudgetError, "position_limit"),
        ({"budget": 64, "position_limit": math.nan}, kv.BudgetError, "position_limit must be a whole number, got nan"),
        ({"budget": "1MiB", "text_room": 0.5}, kv.BudgetError, r"text_room must be a whole number, got 0\.5"),
        ({"budget": "1MiB", "text_room": -1}, kv.BudgetError, "text_room"),
        ({"budget": 64, "method": "full"}, kv.BudgetError, "full"),
    ],
)
def test_what_cannot_be_asked_for(arguments: dict[str, Any], error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), **arguments)


@pytest.mark.parametrize("length", [0, -1, None, "5", True, 2.0, 0.5, float("nan")])
def test_answers_of_no_length_are_refused_before_anything_happens(length: Any) -> None:
    session, other = tiny(), tiny()
    for each in (session, other):
        each.push(footage(11))
    stats, said = session.stats, rf"max_new_tokens must be a whole number above zero, got {length!r}\."
    with pytest.raises(kv.BudgetError, match=said):
        session.ask("What?", max_new_tokens=length)
    with pytest.raises(kv.BudgetError, match=said):
        list(session.stream_answer("What?", max_new_tokens=length))
    with pytest.raises(kv.BudgetError, match=said):
        kv.ask_all([session, tiny()], "What?", max_new_tokens=length)
    assert session.stats == stats
    check_same(usage_of(session), usage_of(other))


def test_the_length_of_an_answer_may_be_any_whole_number() -> None:
    session, other = tiny(), tiny()
    for each in (session, other):
        each.push(footage(11))
    assert session.ask("What?", max_new_tokens=np.int64(4)) == other.ask("What?", max_new_tokens=4)


def test_a_model_that_is_being_compressed_already() -> None:
    """The session is as it was, and works once the model is free."""
    session, other = tiny(), tiny()
    for each in (session, other):
        each.push(footage(20))
        each.flush()
    with kv.compress(session.model, "random", 30), pytest.raises(kv.UnsupportedModelError, match="compressed already"):
        session.ask("What?", max_new_tokens=3)
    check_same(usage_of(session), usage_of(other))


class Broken:
    """A streamer that fails at its third token."""

    def __init__(self) -> None:
        self.tokens = 0

    def put(self, value: Tensor) -> None:
        self.tokens += 1
        if self.tokens == 4:  # the question is the first
            raise OSError("nobody there")

    def end(self) -> None:
        pass


@pytest.mark.parametrize(("method", "budget", "options"), OPTIONS)
def test_a_failure_in_an_answer_leaves_the_session_unchanged(method: str, budget: Any, options: dict[str, Any]) -> None:
    session, silent = (tiny(method, budget, **options) for _ in range(2))
    for each in (session, silent):
        each.push(footage(40))
        each.flush()
    before, stats = cache_of(session), session.stats
    with pytest.raises(OSError, match="nobody there"):
        session.ask("What?", max_new_tokens=8, streamer=Broken())
    check_same(cache_of(session), before)
    assert (session.turns, session.stats.position) == ([], stats.position)
    check_same(usage_of(session), usage_of(silent))


@pytest.mark.parametrize("layer", [0, 2])
def test_a_failure_in_the_middle_of_a_pass_leaves_the_session_unchanged(layer: int) -> None:
    """Some layers have read the token by then, others have not."""
    session, silent = tiny(), tiny()
    for each in (session, silent):
        each.push(footage(40))
        each.flush()
    before = cache_of(session)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("lost")

    handle = model_of(QWEN).get_decoder().layers[layer].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(OSError, match="lost"):
            session.ask("What?", max_new_tokens=8)
    finally:
        handle.remove()
    check_same(cache_of(session), before)
    check_same(usage_of(session), usage_of(silent))


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_several_answers_at_once_are_refused(options: dict[str, Any]) -> None:
    session, silent = tiny(), tiny()
    for each in (session, silent):
        each.push(footage(40))
        each.flush()
    with pytest.raises(kv.KVPressVideoError):
        session.ask("What?", max_new_tokens=4, **options)
    check_same(usage_of(session), usage_of(silent))


def test_a_question_that_holds_a_placeholder_is_refused() -> None:
    """Nothing was shown for it."""
    session, silent = tiny(), tiny()
    for each in (session, silent):
        each.push(footage(40))
        each.flush()
    with pytest.raises(kv.KVPressVideoError):
        session.ask("What is <|video|>?", max_new_tokens=4)
    check_same(usage_of(session), usage_of(silent))


def test_guesses_of_an_assistant_do_not_change_the_answer() -> None:
    """Wrong guesses are taken out of the cache again."""
    session, plain = tiny(), tiny()
    for each in (session, plain):
        each.push(footage(40))
    question = "What? What? What?"
    how = {"max_new_tokens": 20, "eos_token_id": zoo.BOS}  # which is never said
    assert session.ask(question, prompt_lookup_num_tokens=3, **how) == plain.ask(question, **how)
    assert session.stats.text_entries == plain.stats.text_entries
    assert session.stats.position == plain.stats.position
    assert session.ask("More?", max_new_tokens=5) == plain.ask("More?", max_new_tokens=5)


@dataclass(frozen=True)
class Fails(Compressor):
    """Fails in a layer of a pass, once it is told to."""

    at: list[int] = field(default_factory=list, compare=False)

    def scores(self, entries: Entries) -> Tensor:
        if self.at == [entries.context.layer]:
            raise kv.BudgetError("on purpose")
        return entries.values.float().norm(dim=-1)


@pytest.mark.parametrize("layer", [0, 2])
def test_frames_that_cannot_be_compressed_leave_no_half_read_cache(layer: int) -> None:
    """Either the session is as it was before them, or it says at every use that it is broken."""
    method = Fails()
    session = tiny(method, 30)
    session.push(footage(40))
    session.flush()
    before = cache_of(session)
    method.at.append(layer)
    with pytest.raises(kv.BudgetError, match="on purpose"):
        session.push(footage(40, seed=1))
    method.at.clear()
    refused = 0
    for _ in range(3):
        try:
            session.ask("What?", max_new_tokens=3, keep=False)
        except kv.CacheError:
            refused += 1
    assert refused == 3 or (refused == 0 and not differing(cache_of(session), before))


def test_frames_that_cannot_be_fed_wait_and_no_more_than_a_chunk_of_them() -> None:
    """A push that fails again takes in nothing, so that the chunk which is tried stays as small as it was."""
    session = tiny("random", "40KiB", text_room=10_000, chunk=8)
    for _ in range(3):
        with pytest.raises(kv.BudgetError):
            session.push(footage(40))
        assert session.stats.frames == session.stats.waiting == 4


def test_what_counts_as_seen_was_seen() -> None:
    """A budget of bytes that cannot hold a push refuses it, and says so before the model looks."""
    session = tiny("random", "40KiB", text_room=10_000)
    with pytest.raises(kv.BudgetError):
        session.push(footage(40))
    stats = session.stats
    assert stats.visual_tokens == 4 * ((stats.frames - stats.waiting) // 2)


def _interrupting(at: int, model: Any) -> Any:
    """Ctrl-C in the middle of a pass through the text model."""
    calls: list[int] = []

    def interrupt(*_: Any) -> None:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGINT)

    return model.get_decoder().layers[1].register_forward_pre_hook(interrupt)


@pytest.fixture
def ctrl_c() -> Any:
    """Ctrl-C raises KeyboardInterrupt, wherever the tests were started from."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("only the main thread hears Ctrl-C")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_frames_are_watched(at: int, begun: bool) -> None:
    """The chunk in flight is finished, and the session goes on after it as if nothing had happened."""
    session, other = tiny(chunk=8), tiny(chunk=8)
    for each in (session, other):
        if begun:
            each.push(footage(12, seed=9))
            each.ask("First?", max_new_tokens=3)
    handle = _interrupting(at, session.model)
    try:
        with pytest.raises(KeyboardInterrupt):
            session.push(footage(40))
    finally:
        handle.remove()
    seen = session.stats.frames - (12 if begun else 0)
    assert seen == 4 * at
    assert session.stats.waiting == 0
    other.push(footage(40)[:seen])
    check_same(cache_of(session), cache_of(other))
    check_same(usage_of(session), usage_of(other))


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_an_answer_is_made() -> None:
    session, silent = tiny(), tiny()
    for each in (session, silent):
        each.push(footage(40))
        each.flush()
    before = cache_of(session)
    handle = _interrupting(3, session.model)
    try:
        with pytest.raises(KeyboardInterrupt):
            session.ask("What?", max_new_tokens=8)
    finally:
        handle.remove()
    check_same(cache_of(session), before)
    assert not session.turns
    check_same(usage_of(session), usage_of(silent))


# --- A budget of bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("method", ["infinipot-v", "snapkv", "average-pooling"])
def test_bytes_are_never_exceeded(method: str, positions: Any) -> None:
    """At no moment, with everything counted."""
    budget, chunk = 4 * 340 * (336 if positions == "keep" else 384), 8
    session = tiny(method, f"{budget}B", positions=positions, text_room=80, chunk=chunk)
    for number in range(6):
        session.push(footage(12, seed=number))
        held = list(cache_of(session))
        assert session.stats.bytes == sum(part.nbytes for part in held) <= budget
        session.ask("What is it?", max_new_tokens=5)
        assert session.stats.bytes <= budget
        assert min(session.stats.entries) > 0
    assert session.stats.peak_bytes <= budget
    assert session.stats.text_entries > 6 * 20


def test_a_question_too_long_for_the_bytes_is_refused_before_anything_happens() -> None:
    session, other = (tiny("random", "200000B", text_room=60) for _ in range(2))
    for each in (session, other):
        each.push(footage(60))
        each.flush()
    before, stats = cache_of(session), session.stats
    with pytest.raises(kv.BudgetError, match="Question and answer may take"):
        session.ask("What?", max_new_tokens=1000)
    with pytest.raises(kv.BudgetError, match="Question and answer may take"):
        session.ask("What? " * 100, max_new_tokens=1)
    check_same(cache_of(session), before)
    assert session.stats == stats
    check_same(usage_of(session), usage_of(other))


def test_room_for_text_is_there_after_every_push() -> None:
    """As much as was asked for, whatever was said before."""
    session = tiny("random", "700000B", text_room=60, chunk=8)
    for number in range(6):
        session.push(footage(30, seed=number))
        session.flush()
        words = len(
            TinyProcessor(QWEN).tokenizer("<|end|>What?<|im_end|>\n<|im_start|>assistant\n", False)["input_ids"]
        )
        session.ask("What?", max_new_tokens=60 - words)
    assert len(session.turns) == 6


def test_the_peak_is_the_most_that_was_ever_held() -> None:
    session = tiny(budget=20)
    most = 0
    for number in range(3):
        session.push(footage(12, seed=number))
        session.ask("What was that, and where did it go after that?", max_new_tokens=30)
        most = max(most, session.stats.bytes)
        assert session.stats.peak_bytes >= most


def test_a_session_that_saw_nothing() -> None:
    session = tiny()
    stats = session.stats
    assert (stats.frames, stats.seconds, stats.visual_tokens, stats.bytes, stats.position) == (0, None, 0, 0, 0)
    assert "0 frames" in str(stats)
    session.flush()
    assert session.fork().stats == stats
    answer = session.ask("Hello?", max_new_tokens=3)
    assert session.turns == [kv.Turn("Hello?", answer)]
    assert session.fork().ask("More?", max_new_tokens=3) == session.ask("More?", max_new_tokens=3)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_session_is_used_inside_and_outside_of_inference_mode(mode: Any) -> None:
    session, other = tiny(budget=20), tiny(budget=20)
    for number in range(6):
        with mode(number % 2 == 0) if mode is torch.inference_mode else torch.set_grad_enabled(number % 2 == 0):
            session.push(footage(9, seed=number))
            session.ask("What?", max_new_tokens=3, keep=number % 3 == 0)
        other.push(footage(9, seed=number))
        other.ask("What?", max_new_tokens=3, keep=number % 3 == 0)
    check_same(usage_of(session), usage_of(other))
