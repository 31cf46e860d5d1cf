"""Turns that leave a session: what goes, what stays, where it stands, and what the next answer sees."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import at_call, fail, interrupt
from generation import forced, model_of
from offloading import AWAY
from sessions import QWEN, STREAMED, TinyProcessor, ask, cache_of, check_same, footage, frames_for, tiny, usage_of
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Context, Kind, Places, Tags
from kvpress_video.streaming.conversation import Conversation
from kvpress_video.streaming.position_gaps import Closing, Gap, absorbed, joined
from kvpress_video.streaming.position_rescaling import Run
from kvpress_video.streaming.turn_eviction import Opening, TokenRange, TurnTokens, departure, least_departure

# --- Which turns, and which tokens ------------------------------------------------------------------------------------


def _turn(opening: tuple[int, int], closes: bool, text: tuple[int, int], reopening: Any = None) -> TurnTokens:
    return TurnTokens(
        Opening(TokenRange(*opening), closes), TokenRange(*text), None if reopening is None else TokenRange(*reopening)
    )


def test_a_turn_that_another_follows_leaves_its_opening_to_it() -> None:
    turns = [_turn((10, 12), True, (12, 20)), _turn((20, 24), False, (24, 30))]
    left = departure(turns, 1)
    assert left.ranges == ((12, 24),)
    assert left.stay == (_turn((10, 12), True, (24, 30)),)
    assert left.opening is None
    both = departure(turns, 2)
    assert both.ranges == ((12, 24), (24, 30))
    assert (both.stay, both.opening, both.tokens) == ((), turns[0].opening, 18)


def test_a_turn_between_frames_takes_the_markup_on_both_sides() -> None:
    turn = _turn((10, 12), True, (12, 20), (23, 24))
    assert departure([turn], 1).ranges == ((10, 12), (12, 24))
    assert departure([turn], 1).opening is None


def test_a_turn_before_all_frames_leaves_what_opens_conversation_and_video() -> None:
    assert departure([_turn((0, 6), False, (6, 20), (23, 24))], 1).ranges == ((6, 23),)


def test_the_fewest_turns_leave_and_the_oldest_first() -> None:
    turns = [_turn((10 * n, 10 * n + 2), False, (10 * n + 2, 10 * n + 10)) for n in range(5)]
    assert least_departure(turns, lambda left: left.tokens >= 15) == departure(turns, 2)
    assert least_departure(turns, lambda left: left.tokens >= 0) == departure(turns, 0)
    assert least_departure(turns, lambda left: left.tokens > 100) is None


class Told:
    """What a session is told, which answers it gives, and in which order."""

    def __init__(self, session: kv.VideoSession, family: str) -> None:
        self.session, self._family, self._shown = session, family, 0

    def show(self, count: int = 4) -> None:
        self._shown += 1
        self.session.push(frames_for(self._family, count, seed=self._shown))

    def ask(self, number: int, **options: Any) -> None:
        """A question whose answer depends on its number alone."""
        with self.session.answering(f"Q{number}?", 5) as asking:
            length = len(asking.asked.ids)
        said = torch.tensor([[40 + number, 41, 42, 43 + number % 2, 202 if number % 3 else 60]])
        self.session.ask(f"Q{number}?", max_new_tokens=5, logits_processor=[forced(said, length)], **options)


def _words(session: kv.VideoSession) -> Tensor:
    """Values of all text in the first layer, in order: they say which tokens it is, wherever it stands."""
    layer = session.stream.layers[0]
    entries = layer.entries(Context())
    return entries.values[0, 0, entries.kind[0, 0] == Kind.TEXT]


STORIES = ["aa", "vaa", "vaaa", "ava", "vava", "vavaa", "aavvaava", "vavava", "vaavaavaa", "vavavavava", "avavaaava"]


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("family", STREAMED)
def test_what_stays_is_what_would_be_there_had_the_others_never_been_asked(family: str, story: str, keep: int) -> None:
    """v: frames, a: a question. Token for token, all markup included."""
    asked = story.count("a")
    forgetful = Told(tiny("full", None, family, keep_turns=keep), family)
    selective = Told(tiny("full", None, family), family)
    number = 0
    for step in story:
        if step == "v":
            forgetful.show()
            selective.show()
            continue
        forgetful.ask(number)
        if number >= asked - keep:
            selective.ask(number)
        number += 1
    for told in (forgetful, selective):
        told.session.flush()
    kept = [f"Q{number}?" for number in range(max(0, asked - keep), asked)]
    assert [turn.question for turn in forgetful.session.turns] == kept
    assert forgetful.session.stats.evicted_turns == asked - len(kept)
    assert (forgetful.session.stats.evicted_text > 0) == (asked > keep)
    found, wanted = _words(forgetful.session), _words(selective.session)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert forgetful.session.stats.text_entries == selective.session.stats.text_entries


@pytest.mark.parametrize("method", ["infinipot-v", "snapkv", "average-pooling"])
def test_frames_are_no_part_of_a_turn(method: str) -> None:
    sessions = [tiny(method, 30, keep_turns=keep) for keep in (1, "all")]
    for session in sessions:
        for seed in range(5):
            session.push(footage(9, seed=seed))
            session.ask("What?", max_new_tokens=3)
    forgetful, other = sessions
    assert forgetful.stats.entries == other.stats.entries == (30,) * 4
    assert forgetful.stats.visual_tokens == other.stats.visual_tokens
    assert forgetful.stats.text_entries < other.stats.text_entries / 2


def test_no_turns_are_kept() -> None:
    """As if no question were kept."""
    none, silent = tiny(keep_turns=0), tiny()
    for seed in range(3):
        for session, options in ((none, {}), (silent, {"keep": False})):
            session.push(footage(9, seed=seed))
            session.ask("What?", max_new_tokens=3, **options)
            assert not session.turns
            assert "".join(session.stream_answer("Why?", max_new_tokens=3, **options))
            [answer] = kv.ask_all([session], "Who?", max_new_tokens=3, **options)
            assert answer
    check_same(cache_of(none), cache_of(silent))
    check_same(ask(none, "And now?").logits, ask(silent, "And now?", keep=False).logits)
    with pytest.raises(kv.CacheError, match="no question to take back"):
        none.take_back()
    pieces = none.stream_answer("What is all this, then?", max_new_tokens=4)
    next(pieces)
    pieces.close()


@pytest.mark.parametrize("wrong", [-1, 1.0, "two", None, True])
def test_a_number_of_turns_that_cannot_be(wrong: Any) -> None:
    with pytest.raises(kv.BudgetError, match=r"keep_turns must be 'all' or a whole number from 0 on, got"):
        tiny(keep_turns=wrong)


# --- What the next answer sees ----------------------------------------------------------------------------------------


class Record:
    """Everything that was put into a cache, and from when on each token of it was gone.

    Attributes:
        states: embeddings of each token.
        positions: of each token, (axes, n).
        left: by token, how many tokens had come when it left.
    """

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.left: dict[int, int] = {}

    @property
    def length(self) -> int:
        return sum(part.shape[1] for part in self.states)


@contextmanager
def recorded(session: kv.VideoSession) -> Iterator[Record]:
    record, decoder = Record(), session.model.get_decoder()
    held: set[int] = set()

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        layer = session.stream.layers[0]
        now = set() if layer.tags is None else set(layer.tags[0, 0, :, Tags.INDEX].tolist())
        record.left |= {token: record.length for token in held - now}
        held.clear()
        states, *told = args
        record.states.append(states.clone())
        record.positions.append((told[0] if told else kwargs["position_ids"]).clone())
        held.update(now | set(range(record.length - states.shape[1], record.length)))

    handle = decoder.rotary_emb.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield record
    finally:
        handle.remove()


@torch.no_grad()
def masked_logits(session: kv.VideoSession, record: Record, last: int) -> Tensor:
    """Logits of the last tokens: the stock model in one pass over all, in which a token that left is hidden from what
    came after."""
    states, length = torch.cat(record.states, dim=1), record.length
    visible = torch.ones(length, length).tril().bool()
    for token, came in record.left.items():
        visible[came:, token] = False
    mask = torch.zeros(1, 1, length, length).masked_fill(~visible, torch.finfo(torch.float32).min)
    positions = torch.cat(record.positions, dim=-1)
    model = session.model
    output = model.get_decoder()(inputs_embeds=states, position_ids=positions, attention_mask=mask)
    return model.get_output_embeddings()(output.last_hidden_state[0, -last:])


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("story", ["vaaaa", "avavava", "vavavaa"])
@pytest.mark.parametrize("family", [family for family in STREAMED if "qwen3" not in family])
def test_the_next_answer_equals_the_stock_model_with_the_turns_masked(family: str, story: str, positions: Any) -> None:
    session = tiny("full", None, family, positions=positions, keep_turns=1)
    with recorded(session) as record:
        for number, step in enumerate(story):
            if step == "v":
                session.push(frames_for(family, 6, seed=number))
            else:
                session.flush()
                before, notes = session.stats, ask(session, f"Number {number}?")
    assert before.evicted_turns == story.count("a") - 2 > 0
    assert len(record.left) == before.evicted_text
    found = torch.stack(notes.logits)
    torch.testing.assert_close(masked_logits(session, record, len(found)), found, rtol=2e-6, atol=2e-5)
