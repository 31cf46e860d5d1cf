"""Turns that leave a session: what goes, what stays, where it stands, and what the next answer sees."""

from __future__ import annotations

import itertools
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import at_call, fail, interrupt
from generation import forced
from offloading import AWAY
from sessions import ATTENTIVE, QWEN, STREAMED, ask, cache_of, check_same, footage, frames_for, tiny, usage_of
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Context, Kind, Places, Tags
from kvpress_video.streaming.conversation import Conversation
from kvpress_video.streaming.position_gaps import Closing, Gap, absorbed, joined
from kvpress_video.streaming.position_rescaling import Run
from kvpress_video.streaming.turn_eviction import Opening, TokenRange, TurnTokens, departure, least_departure

SOME_QUICK = [
    pytest.param(family, marks=() if family in (QWEN, "qwen3_vl") else pytest.mark.slow) for family in ATTENTIVE
]

ONE_A_KIND = [
    pytest.param(family, marks=() if family in (QWEN, "gemma3", "qwen3_5") else pytest.mark.slow) for family in STREAMED
]
"""Also families with windows or recurrent states."""

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


def test_a_turn_before_all_frames_leaves_the_opening_of_conversation_and_video() -> None:
    assert departure([_turn((0, 6), False, (6, 20), (23, 24))], 1).ranges == ((6, 23),)


def test_a_turn_before_more_frames_takes_the_markup_that_closed_the_video() -> None:
    turns = [_turn((10, 12), True, (12, 20)), _turn((20, 21), False, (21, 30))]
    assert departure(turns, 2).opening == turns[0].opening
    leaves = departure(turns, 2, before_frames=True)
    assert leaves.opening is None
    assert leaves.tokens == 20
    started = [_turn((0, 3), False, (3, 9))]
    assert departure(started, 1, before_frames=True).opening == started[0].opening


def test_the_fewest_turns_leave_and_the_oldest_first() -> None:
    turns = [_turn((10 * n, 10 * n + 2), False, (10 * n + 2, 10 * n + 10)) for n in range(5)]
    assert least_departure(turns, lambda left: left.tokens >= 15) == departure(turns, 2)
    assert least_departure(turns, lambda left: left.tokens >= 0) == departure(turns, 0)
    assert least_departure(turns, lambda left: left.tokens > 100) is None


class Told:
    """Inputs and answers of a session, in order."""

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


@pytest.mark.sampled
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("family", SOME_QUICK)
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
        record.left |= dict.fromkeys(held - now, record.length)
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
@pytest.mark.parametrize("family", [family for family in ATTENTIVE if "qwen3" not in family])
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


# --- Where things stand afterwards ------------------------------------------------------------------------------------


def test_gaps_that_touch_become_one() -> None:
    gaps = joined([Gap(20, 30), Gap(2, 5), Gap(5, 8), Gap(12, 12)])
    assert gaps == (Gap(2, 8), Gap(20, 30))
    assert joined([*gaps, Gap(6, 21)]) == (Gap(2, 30),)


def test_runs_that_only_gaps_part_become_one_where_nothing_moves() -> None:
    runs = (Run(4, 10, 2), Run(15, 20, 2), Run(30, 40, 2))
    assert absorbed(runs, (Gap(10, 15), Gap(22, 25))) == ((Run(4, 20, 2), Run(30, 40, 2)), (Gap(22, 25),))


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_closing_moves_each_token_as_the_naive_rule_does(seed: int, spatial: bool) -> None:
    """Frames, text that stays and text that left, in any order; side by side, frames go on counting rows from the first
    of them."""
    draw, place = random.Random(seed), 0
    runs, gaps, wanted = [], [], []
    now, origin, open_run = 0, 0, False
    for _ in range(draw.randint(3, 9)):
        kind, length = draw.choice(["frames", "text", "gone"]), draw.randint(1, 6)
        if kind == "gone":
            gaps = list(joined([*gaps, Gap(place, place + length)]))
        elif kind == "text":
            wanted += [((place + n,) * 3, (now + n,) * 3) for n in range(length)]
            now, open_run = now + length, False
        else:
            if runs and runs[-1].end == place:
                continue  # two runs are never side by side
            origin, open_run = (origin, True) if open_run else (now, True)
            for n in range(length):
                old, new = (place + n, place, place + 1), (now + n, origin, origin + 1)
                wanted.append((old, new) if spatial else ((place + n,) * 3, (now + n,) * 3))
            runs.append(Run(place, place + length, 1))
            now += length
        place += length
    change = Closing(tuple(runs), tuple(gaps), spatial)
    old, new = (torch.tensor([pair[side] for pair in wanted], dtype=torch.float32) for side in (0, 1))
    assert torch.equal(change(old), new)
    assert change.next_position(place) == now
    moved = change.moved
    assert all(before.end < after.start for before, after in itertools.pairwise(moved))
    assert sum(run.end - run.start for run in moved) == sum(run.end - run.start for run in runs)


def _turned(key: Tensor, by: Tensor) -> Tensor:
    """Keys (n, 16) turned by positions (n, 3): Qwen's pairs of channels, each by its axis and frequency."""
    axis = torch.tensor([0] * 2 + [1] * 3 + [2] * 3)
    angle = by.double()[:, axis] * 10000.0 ** (-torch.arange(8).double() / 8)
    first, second = key[:, :8].double(), key[:, 8:].double()
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=1)


@pytest.mark.parametrize("story", ["a", "va", "avvaa"])
def test_positions_of_turns_that_left_are_used_again_before_frames_move_together(story: str) -> None:
    """A conversation many times longer than the range: frames keep their distance, and keys stand where they say."""
    session = tiny("full", None, positions="compact", position_limit=200, keep_turns=2, chunk=4)
    session.push(footage(8))
    session.flush()
    frames = session.stream.layers[0].places[0, 0, -4:, Places.PRESENT.start]
    distance = frames - frames[0]
    came: list[dict[int, Tensor]] = [{} for _ in session.stream.layers]
    update = CompressedLayer.update

    def noted(layer: CompressedLayer, keys: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = update(layer, keys, *args, **kwargs)
        entries = layer.entries(Context())
        new = entries.slice(len(entries) - keys.shape[2], len(entries))
        known = came[[id(each) for each in session.stream.layers].index(id(layer))]
        for slot, token in enumerate(new.index[0, 0].tolist()):
            known[token] = torch.cat([new.keys[0, 0, slot], new.present[0, 0, slot]])
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CompressedLayer, "update", noted)
        for step in itertools.islice(itertools.cycle(story), 45):
            if step == "v" and session.stats.frames < 24:
                session.push(footage(2, seed=session.stats.frames))
            else:
                session.ask("What is it?", max_new_tokens=4)
    assert session.stats.position < 200 < session.stream.layers[0].logical / 4
    assert session.stats.evicted_turns > 20
    for layer, known in zip(session.stream.layers, came, strict=True):
        entries = layer.entries(Context())
        present, kind = entries.present[0, 0], entries.kind[0, 0]
        slots = [slot for slot, token in enumerate(entries.index[0, 0].tolist()) if token in known]
        first = torch.stack([known[token] for token in entries.index[0, 0, slots].tolist()])
        wanted = _turned(first[:, :16], present[slots] - first[:, 16:])
        torch.testing.assert_close(entries.keys[0, 0, slots].double(), wanted, rtol=0, atol=1e-4)
        seen = present[kind == Kind.VIDEO, 0]
        assert torch.equal(seen[12:16] - seen[12], distance)
        assert (seen.diff() >= 0).all()
        assert (present[kind == Kind.TEXT, 0].diff() > 0).all()
        assert present.max() == session.stats.position - 1


def test_kept_positions_stay_where_they_are() -> None:
    session = tiny("full", None, positions="keep", keep_turns=1)
    positions: dict[int, list[float]] = {}
    for seed in range(12):
        session.push(footage(4, seed=seed))
        session.ask("What?", max_new_tokens=3)
        entries = session.stream.layers[0].entries(Context())
        for token, place in zip(entries.index[0, 0].tolist(), entries.present[0, 0].tolist(), strict=True):
            assert positions.setdefault(token, place) == place
    assert session.stats.position > 12 * 20
    assert len(session.stream.timeline.runs) <= 2
    assert len(session.stream.timeline.gaps) <= 1


# --- A budget of bytes ------------------------------------------------------------------------------------------------


BYTES = {"device": 320_000, "cpu": 640_000, "disk": 640_000}  # buffers that a bank is read from are paid for


def _small(bank_on: str = "device", **options: Any) -> kv.VideoSession:
    """A session whose budget holds a handful of turns."""
    session = tiny("random", f"{BYTES[bank_on]}B", text_room=40, chunk=8, bank_on=bank_on, **options)
    session.push(footage(24))
    session.flush()
    return session


def _full(**options: Any) -> kv.VideoSession:
    """A session whose next question makes a turn leave."""
    session = _small(**options)
    while not session.stats.evicted_turns:
        before = session.fork()
        session.ask("What is it?", max_new_tokens=6)
    return before


@pytest.mark.sampled
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("bank", ["device", *AWAY])
def test_questions_are_answered_for_ever_inside_a_budget_of_bytes(positions: Any, bank: str) -> None:
    session = _small(positions=positions, bank_on=bank)
    asked = 0
    for number in range(40):
        if number % 7 == 3:
            session.push(footage(6, seed=number))
        session.ask(f"What is number {number}?", max_new_tokens=6)
        asked += 1
        assert session.stats.peak_bytes <= BYTES[bank]
        assert session.turns[-1].question == f"What is number {number}?"
        assert session.stats.evicted_turns + len(session.turns) == asked
        assert min(session.stats.entries) > 0
    assert session.stats.evicted_turns > 20
    assert len(session.turns) > 1
    assert [turn.question for turn in session.turns] == [
        f"What is number {number}?" for number in range(asked - len(session.turns), asked)
    ]


def test_no_turn_leaves_while_there_is_room() -> None:
    session = _small()
    room = session.stream.text_left()
    while not session.stats.evicted_turns:
        session.ask("What is it?", max_new_tokens=6)
    turn = session.stats.evicted_text
    assert (len(session.turns) + 1) * turn > room - 4 * turn
    assert f"({turn} of 1 turns evicted)" in str(session.stats)


def test_one_long_question_makes_several_turns_leave_and_a_longer_one_is_refused() -> None:
    session = _full()
    turns, stats, before = len(session.turns), session.stats, cache_of(session)
    with pytest.raises(kv.BudgetError, match=r"may take \d+ tokens, and the budget has room for \d+"):
        session.ask("What? " * 200, max_new_tokens=6)
    assert session.stats == stats
    check_same(cache_of(session), before)
    session.ask("What is it? " * 5, max_new_tokens=6)
    assert session.stats.evicted_turns >= 2
    assert session.stats.peak_bytes <= BYTES["device"]
    assert len(session.turns) < turns


def test_the_room_that_a_refusal_names_is_there() -> None:
    session = _full()
    with pytest.raises(kv.BudgetError) as caught:
        session.ask("What?", max_new_tokens=10_000)
    taken, room = map(int, re.findall(r"\d+", str(caught.value))[:2])
    session.ask("What?", max_new_tokens=room - (taken - 10_000))
    assert len(session.turns) == 1
    with pytest.raises(kv.BudgetError):
        session.fork().ask("What?", max_new_tokens=room)


def test_turns_leave_where_frames_would_be_left_with_nothing() -> None:
    session = _small()
    for seed in range(30):
        session.push(footage(8, seed=seed))
        session.flush()
        assert min(session.stats.entries) > 0
        session.ask("What is it, and what will it be then?", max_new_tokens=4)
    assert session.stats.evicted_turns > 5


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_turns_that_leave_for_frames_leave_nothing_even_if_that_is_too_few(positions: Any) -> None:
    """All of them have to go every time, and the session goes on as one that was never asked."""
    session, silent = (tiny("random", "132000B", text_room=60, chunk=8, positions=positions) for _ in range(2))
    for seed in range(6):
        for each in (session, silent):
            each.push(footage(8, seed=seed))
            each.flush()
        assert not session.turns
        torch.testing.assert_close(_words(session), _words(silent), rtol=0, atol=0)
        for _ in range(2):
            session.ask("What is it, and what will it be?", max_new_tokens=6)
    assert session.stats.evicted_turns >= 10


# --- What fails, what is taken back, copies and files -----------------------------------------------------------------


@pytest.mark.sampled
@pytest.mark.parametrize("what", [fail, interrupt])
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(CompressedLayer, "replace", 1), (CompressedLayer, "replace", 3), (CompressedLayer, "update", 2),
     (CompressedLayer, "update", 6), (Conversation, "answered", 1)],
)  # fmt: skip
@pytest.mark.parametrize("bank", ["device", "cpu"])
def test_a_failed_answer_brings_back_the_turns_that_left_for_it(
    bank: str, owner: Any, name: str, number: int, what: Callable[[], None]
) -> None:
    session, other = _full(bank_on=bank), _full(bank_on=bank)
    before, stats, timeline = cache_of(session), session.stats, session.stream.timeline
    with at_call(number, owner, name, what), pytest.raises((OSError, KeyboardInterrupt)):
        session.ask("What is it?", max_new_tokens=6)
    check_same(cache_of(session), before)
    assert (session.stats, session.turns, session.stream.timeline) == (stats, other.turns, timeline)
    for each in (session, other):
        each.ask("What is it?", max_new_tokens=6)
        assert each.stats.evicted_turns == 1
    check_same(usage_of(session), usage_of(other))


@pytest.mark.parametrize("what", [fail, interrupt])
@pytest.mark.parametrize("number", [1, 4])
def test_an_answer_after_which_turns_cannot_leave_is_undone(number: int, what: Callable[[], None]) -> None:
    session, other = (tiny(keep_turns=1) for _ in range(2))
    for each in (session, other):
        each.push(footage(20))
        each.ask("First?", max_new_tokens=4)
    before = cache_of(session)
    with at_call(number, CompressedLayer, "replace", what), pytest.raises((OSError, KeyboardInterrupt)):
        session.ask("Second?", max_new_tokens=4)
    check_same(cache_of(session), before)
    assert session.turns == other.turns
    check_same(usage_of(session), usage_of(other))


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("between", [False, True])
def test_a_turn_is_taken_back_after_older_ones_left(keep: int, between: bool) -> None:
    """The next question is put as if only the turns that stay had been asked."""
    session, selective = (Told(tiny("full", None, keep_turns=each), QWEN) for each in (keep, "all"))
    session.show()
    selective.show()
    for number in range(4):
        session.ask(number)
        if between:
            session.show()
            selective.show()
        if 4 - keep <= number < 3:
            selective.ask(number)
    if between:  # frames follow the last turn
        session.session.flush()
        with pytest.raises(kv.CacheError, match="frames were seen"):
            session.session.take_back()
        session.ask(3)
    session.session.take_back()
    session.ask(9)
    selective.ask(9)
    if not between:
        torch.testing.assert_close(_words(session.session), _words(selective.session), rtol=0, atol=1e-6)
    assert session.session.turns[-1].question == "Q9?"
    assert len(session.session.turns) == keep


def test_frames_after_a_turn_that_was_taken_back() -> None:
    session, silent = (Told(tiny("full", None, keep_turns=1), QWEN) for _ in range(2))
    for told in (session, silent):
        told.show()
    session.ask(1)
    session.ask(2)
    session.session.take_back()
    for told in (session, silent):
        told.show()
        told.ask(3)
    assert session.session.stats.text_entries <= silent.session.stats.text_entries + 2
    assert session.session.turns == silent.session.turns


@pytest.mark.sampled
@pytest.mark.parametrize("family", SOME_QUICK)
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_sessions_whose_turns_left_are_saved_and_copied(family: str, positions: Any, tmp_path: Path) -> None:
    session = tiny("infinipot-v", 40, family, positions=positions, keep_turns=2)
    for number, step in enumerate("avavaaavavaa"):
        if step == "v":
            session.push(frames_for(family, 7, seed=number))
        else:
            session.ask(f"Number {number}?", max_new_tokens=4)
        session.save(tmp_path / "a.kvv")
        loaded = kv.VideoSession.load(tmp_path / "a.kvv", session.model, session.processor)
        for copy in (loaded, session.fork()):
            check_same(cache_of(copy), cache_of(session))
            roomless = {"reserved_bytes": 0}  # room that has grown with long labels is not copied
            assert replace(copy.stats, **roomless) == replace(session.stats, **roomless)
            assert (copy.turns, copy.snapshot().state) == (session.turns, session.snapshot().state)
    for copy in (loaded, session):
        copy.push(frames_for(family, 5))
    for _ in range(3):
        found, wanted = ask(loaded, "And now?"), ask(session, "And now?")
        assert all(map(torch.equal, found.logits, wanted.logits))
        check_same(cache_of(loaded), cache_of(session))
    assert loaded.stats.evicted_turns == 9


def _check_batch(fresh: Callable[[], list[kv.VideoSession]], family: str = QWEN) -> list[kv.VideoSession]:
    """Sessions asked together and sessions asked alone lose the same turns and answer the same."""
    together, alone = fresh(), fresh()
    for number in range(8):
        answers = kv.ask_all(together, f"What is {number}?", max_new_tokens=4)
        assert answers == [session.ask(f"What is {number}?", max_new_tokens=4) for session in alone]
        if number % 3 == 1:
            for session in (*together, *alone):
                session.push(frames_for(family, 5, seed=number))
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours.stream.layers[0].tags, theirs.stream.layers[0].tags)
            assert (ours.turns, ours.stream.timeline) == (theirs.turns, theirs.stream.timeline)
            assert ours.stats.evicted_turns == theirs.stats.evicted_turns
    return together


@pytest.mark.sampled
@pytest.mark.parametrize("family", ONE_A_KIND)
def test_turns_of_a_batch_leave_as_each_would_alone(family: str) -> None:
    def fresh() -> list[kv.VideoSession]:
        sessions = [tiny("van", 60 + n, family, keep_turns=n) for n in range(3)]
        for number, session in enumerate(sessions):
            session.push(frames_for(family, 5 + 4 * number, seed=number))
        return sessions

    together = _check_batch(fresh, family)
    assert [len(session.turns) for session in together] == [0, 1, 2]


@pytest.mark.sampled
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_turns_of_a_batch_leave_a_budget_of_bytes_as_each_would_alone(positions: Any) -> None:
    def fresh() -> list[kv.VideoSession]:
        sessions = [tiny(budget=24 + n, keep_turns=n, positions=positions) for n in range(3)]
        sessions.append(tiny("random", "200000B", text_room=40, chunk=8, positions=positions))
        for number, session in enumerate(sessions):
            session.push(footage(5 + 4 * number, seed=number))
        return sessions

    assert _check_batch(fresh)[3].stats.evicted_turns > 0


def test_all_turns_come_back_when_a_batch_fails() -> None:
    sessions = [_full(), _full()]
    before = [(cache_of(session), session.stats, session.turns) for session in sessions]
    with at_call(9, CompressedLayer, "extend", fail), pytest.raises(OSError, match="lost"):
        kv.ask_all([*sessions, tiny()], "What is it?", max_new_tokens=6)
    with pytest.raises(kv.BudgetError):
        kv.ask_all([*sessions, tiny("random", "60KiB", text_room=4)], "What is it?" * 9, max_new_tokens=6)
    for session, (cache, stats, turns) in zip(sessions, before, strict=True):
        check_same(cache_of(session), cache)
        assert (session.stats, session.turns) == (stats, turns)


@pytest.mark.parametrize("bank", AWAY)
@pytest.mark.parametrize("method", ["detachable:scorer=van,window=0.7", "infinipot-v"])
def test_turns_leave_a_session_with_a_bank(bank: str, method: str) -> None:
    found = []
    for place in ("device", bank):
        session = tiny(method, 40, keep_turns=1, bank_on=place, position_limit=220)
        for number in range(10):
            session.push(footage(6, seed=number))
            session.ask("What?", max_new_tokens=4)
        found.append(usage_of(session))
    check_same(*found)


# --- A long conversation ----------------------------------------------------------------------------------------------


def _converse(count: int, tmp_path: Path, positions: Any, frames_every: int | None) -> tuple[list[Any], list[float]]:
    """What a session of two kept turns takes after every tenth of so many questions, and the seconds of computing that
    its quickest question took there: what else the machine does is not in them.
    """
    session = tiny("infinipot-v", 24, positions=positions, keep_turns=2, chunk=8)
    session.push(footage(8))
    points, seconds, tenth = [], [], count // 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kept positions leave the range
        for number in range(count):
            if frames_every and number % frames_every == 0:
                session.push(footage(2, seed=number))
            start = time.process_time()
            session.ask("What?", max_new_tokens=1)
            seconds.append(time.process_time() - start)
            if number % tenth == tenth - 1:
                session.save(tmp_path / "a.kvv")
                timeline = session.stream.timeline
                points.append((session.stats.bytes, session.stats.text_entries, session.stats.reserved_bytes,
                               len(session.turns), len(timeline.runs), len(timeline.gaps),
                               (tmp_path / "a.kvv").stat().st_size))  # fmt: skip
    assert session.stats.evicted_turns == count - 2
    return points, [min(seconds[start : start + tenth]) for start in range(0, count, tenth)]


def _flat(points: Sequence[Any]) -> None:
    for held, text, reserved, turns, runs, gaps, size in points:
        assert (held, text, reserved, turns) == points[0][:4]
        assert max(runs, gaps) <= 20
        assert size < points[0][-1] * 1.1 + 2048


@pytest.mark.sampled
@pytest.mark.parametrize("frames_every", [None, 1])
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_sixty_questions_take_no_more_than_ten(positions: Any, frames_every: int | None, tmp_path: Path) -> None:
    _flat(_converse(60, tmp_path, positions, frames_every)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "frames_every"), [("compact", None), ("compact", 5), ("keep", None)])
def test_ten_thousand_questions(positions: Any, frames_every: int | None, tmp_path: Path) -> None:
    points, seconds = _converse(10_000, tmp_path, positions, frames_every)
    _flat(points)
    assert max(seconds) < 1.5 * min(seconds)
