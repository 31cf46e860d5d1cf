"""Endless streams in a small range of positions: what a squeeze does to positions, keys and the order of time."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import zoo
from generation import model_of
from sessions import TinyProcessor, ask, footage, tiny
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Kind, Places, Tags
from kvpress_video.streaming.position_gaps import Closing
from kvpress_video.streaming.position_rescaling import Rescaling, Run, occupied, rescale_to
from kvpress_video.streaming.timeline import Timeline

QWEN = zoo.FAMILIES[0]
LLAVA = "llava_next_video"
FAMILIES = [family for family in (QWEN, LLAVA) if family in zoo.FAMILIES]
LIMIT = 256

# --- The map ----------------------------------------------------------------------------------------------------------


def _timeline(seed: int, spatial: bool) -> tuple[list[Run], int, list[tuple[str, int, Tensor]]]:
    """Runs between texts, the next position, and tokens in order: kind, ordinal of their run, and (t, h, w)."""
    draw = random.Random(seed)
    runs, tokens, position = [], [], 0
    for number in range(draw.randint(1, 5)):
        for _ in range(draw.randint(1, 6)):
            tokens.append(("text", number, torch.full((3,), float(position))))
            position += 1
        rows, columns, frames = draw.randint(1, 4), draw.randint(1, 4), draw.randint(1, 30)
        start, time, end = position, 0.0, position
        for _ in range(frames):
            for patch in range(rows * columns):
                axes = [start + time, start + patch // columns, start + patch % columns]
                axes = axes if spatial else [start + time + patch] * 3
                tokens.append(("video", number, torch.tensor(axes, dtype=torch.float32)))
                end = max(end, int(max(axes)) + 1)
            time += draw.choice([0, 0.5, 1, 3, 20]) if spatial else rows * columns
        runs.append(Run(start, end, max(rows, columns) if spatial else 1))
        position = end
    for _ in range(draw.randint(0, 4)):
        tokens.append(("text", len(runs), torch.full((3,), float(position))))
        position += 1
    return runs, position, tokens


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_a_squeeze_moves_each_token_as_the_naive_rule_does(seed: int, spatial: bool) -> None:
    runs, following, tokens = _timeline(seed, spatial)
    least = (
        following - sum(run.end - run.start for run in runs) + sum(min(run.least, run.end - run.start) for run in runs)
    )
    for wanted in sorted({least, (least + following) // 2, following}):
        squeeze = rescale_to(runs, following, wanted, spatial)
        assert least <= squeeze.next_position(following) <= wanted
        moved = squeeze(torch.stack([place for _, _, place in tokens]))
        saved, starts = [0], []
        for run in runs:
            length = run.end - run.start
            short = min(length, max(math.ceil(length * squeeze.factor), run.least))
            starts.append(run.start - saved[-1])
            saved.append(saved[-1] + length - short)
        for (kind, number, place), found in zip(tokens, moved, strict=True):
            if kind == "text":
                expected = place - saved[number]
            else:
                run = runs[number]
                expected = starts[number] + place - run.start
                shrunk = starts[number] + (place - run.start) * squeeze.factor
                expected[0] = shrunk[0]
                expected = expected if spatial else shrunk
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert squeeze.next_position(following) == following - saved[-1]
        _check_order(tokens, moved, squeeze)


def _check_order(tokens: list[tuple[str, int, Tensor]], moved: Tensor, squeeze: Rescaling) -> None:
    """Time never turns back, and text comes after all that was shown before it."""
    time = moved[:, 0]
    visual = [number for number, (kind, _, _) in enumerate(tokens) if kind == "video"]
    words = [number for number, (kind, _, _) in enumerate(tokens) if kind == "text"]
    assert (time[visual].diff() >= -1e-4).all()
    assert (time[words].diff() > 0).all()
    for word in words:
        assert (moved[:word] < time[word] - 1e-4).all()
        assert time[word] == time[word].round()
    assert all(run.start < run.end for run in squeeze.moved)


def test_many_squeezes_in_a_row_keep_the_order() -> None:
    runs, following, tokens = _timeline(3, True)
    positions = torch.stack([place for _, _, place in tokens])
    for _ in range(40):
        squeeze = rescale_to(runs, following, following - 1, True) if following > 60 else None
        if squeeze is None:
            break
        positions, runs, following = squeeze(positions), squeeze.moved, squeeze.next_position(following)
    _check_order(tokens, positions, Rescaling(runs, 1.0, True))
    assert following == int(positions.max()) + 1 or following > int(positions.max())


def test_a_squeeze_that_cannot_be() -> None:
    for runs, wanted in (([], 5), ([Run(4, 90, 8)], 15), ([Run(4, 90, 8)], -3)):
        with pytest.raises(kv.CacheError, match="positions"):
            rescale_to(runs, 94, wanted, True)


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_left_of_empty_runs_closes(seed: int, spatial: bool) -> None:
    """Text that stood around what is gone becomes neighbours, and runs keep their length."""
    runs, following, tokens = _timeline(seed, spatial)
    gone = set(range(0, len(runs) - 1, 2))
    held = [token for token in tokens if token[0] == "text" or token[1] not in gone]
    places = torch.stack([place for _, _, place in held])
    stays = occupied(runs, [places[:, 0]])
    assert stays == [number not in gone for number in range(len(runs))]
    timeline = Timeline(spatial, runs=tuple(runs)).without_empty(stays, moves=True)
    left = [run for number, run in enumerate(runs) if number not in gone]
    assert list(timeline.runs) == left
    width = sum(runs[number].end - runs[number].start for number in gone)
    assert sum(gap.end - gap.start for gap in timeline.gaps) == width
    closing = Closing(timeline.runs, timeline.gaps, spatial)
    assert closing.next_position(following) == following - width
    moved, saved, number = closing(places), 0, 0
    for (kind, run, place), found in zip(held, moved, strict=True):
        while number < run:
            saved += runs[number].end - runs[number].start if number in gone else 0
            number += 1
        torch.testing.assert_close(found, place - saved, rtol=0, atol=1e-3, msg=f"{kind} of run {run}")


# --- A stream ---------------------------------------------------------------------------------------------------------


class Arrivals:
    """Every key as it came to the cache, with the positions that the text model was told.

    Attributes:
        keys: per layer and token, (kv_heads, head_dim).
        positions: of each token, (3,).
        highest: the highest position that the text model was ever told.
    """

    def __init__(self, layers: int) -> None:
        self.keys: list[dict[int, Tensor]] = [{} for _ in range(layers)]
        self.positions: dict[int, Tensor] = {}
        self.highest = 0.0


@contextmanager
def noted(model: Any, session: kv.VideoSession) -> Iterator[Arrivals]:
    """Notes what comes to a session's cache."""
    found = Arrivals(len(session.stream.layers))
    told: list[Tensor] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        given = args[1] if len(args) > 1 else kwargs["position_ids"]
        told[:] = [given[-3:, 0].float() if given.ndim == 3 else given.float().expand(3, -1)]
        found.highest = max(found.highest, float(told[0].max()))

    update = CompressedLayer.update

    def noted_update(layer: CompressedLayer, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = update(layer, keys, values, *args, **kwargs)
        number = [id(each) for each in session.stream.layers].index(id(layer))
        came = layer.tags[0, 0, -keys.shape[2] :, Tags.INDEX].tolist()
        found.keys[number] |= {token: keys[0, :, column].clone() for column, token in enumerate(came)}
        found.positions |= {token: told[0][:, column] for column, token in enumerate(came)}
        return made

    handle = model.get_decoder().rotary_emb.register_forward_pre_hook(note, with_kwargs=True)
    CompressedLayer.update = noted_update  # type: ignore[method-assign]
    try:
        yield found
    finally:
        CompressedLayer.update = update  # type: ignore[method-assign]
        handle.remove()


def _turned(family: str, key: Tensor, by: Tensor) -> Tensor:
    """A key of 16 turned by positions (3,): pairs of channels i and i+8, each by its axis and frequency."""
    axis = [0] * 8 if "llava" in family else [0] * 2 + [1] * 3 + [2] * 3
    turned = key.double().clone()
    for pair in range(8):
        angle = float(by[axis[pair]]) * 10000.0 ** (-pair / 8)
        first, second = key[:, pair].double(), key[:, pair + 8].double()
        turned[:, pair] = first * math.cos(angle) - second * math.sin(angle)
        turned[:, pair + 8] = second * math.cos(angle) + first * math.sin(angle)
    return turned


def _check(session: kv.VideoSession, arrivals: Arrivals, family: str) -> None:
    """Present positions are inside the range and in order, the same in every layer and head, and keys stand there."""
    stood: dict[int, Tensor] = {}
    for number, layer in enumerate(session.stream.layers):
        tags, places = layer.tags[0], layer.places[0]
        assert places[..., Places.PRESENT].max() < session.stats.position <= session.stream.position_limit
        assert places[..., Places.PRESENT].min() >= 0
        for head in range(tags.shape[0]):
            index, kind = tags[head, :, Tags.INDEX].tolist(), tags[head, :, Tags.KIND]
            present = places[head, :, Places.PRESENT]
            assert index == sorted(index)
            visual = kind == Kind.VIDEO
            assert (present[visual, 0].diff() >= -1e-4).all()
            for slot, token in enumerate(index):
                known = stood.setdefault(token, present[slot])
                torch.testing.assert_close(present[slot], known, rtol=0, atol=0)
                torch.testing.assert_close(
                    places[head, slot, Places.ORIGINAL], arrivals.positions[token], rtol=0, atol=0
                )
            words = [(token, present[slot]) for slot, token in enumerate(index) if kind[slot] == Kind.TEXT]
            for (token, here), (following, there) in itertools.pairwise(words):
                if following == token + 1:
                    assert (there - here == 1).all()
            for slot in range(number, len(index), 11):
                by = present[slot] - arrivals.positions[index[slot]]
                wanted = _turned(family, arrivals.keys[number][index[slot]][head : head + 1], by)[0]
                torch.testing.assert_close(layer.keys[0, head, slot].double(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("chunk", [16, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_endless_stream_stays_inside_the_range(family: str, chunk: int) -> None:
    """Thousands of frames, now and then a question. A large chunk is a quarter of the range."""
    model, side = model_of(family), 24 if family == LLAVA else 8
    rounds, frames = (12, 24) if family == LLAVA else (24, 128)
    session = kv.VideoSession(model, TinyProcessor(family), "random", 40, chunk=chunk, position_limit=LIMIT, fps=4)
    squeezes: list[Rescaling] = []
    move = session.stream._move
    session.stream._move = lambda change: (squeezes.append(change), move(change))[1]  # type: ignore[method-assign]
    with noted(model, session) as arrivals:
        for number in range(rounds):
            session.push(footage(frames, side, side, seed=number))
            if number % 3 == 2:
                session.ask("What?", max_new_tokens=4, keep=number % 2 == 0 and number < 12)
        _check(session, arrivals, family)
    assert session.stats.frames == rounds * frames
    assert arrivals.highest < LIMIT
    assert len(squeezes) >= 10
    assert session.stats.entries == (40,) * 4


def _all_finite(ids: Tensor, scores: Tensor) -> Tensor:
    assert scores.isfinite().all()
    return scores


@pytest.mark.parametrize("method", ["infinipot-v", "average-pooling", "novelty", "snapkv"])
def test_methods_go_on_after_squeezes(method: str) -> None:
    """Positions stay in the range and in order also where entries are merged; answers can be computed."""
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), method, 36, position_limit=128, fps=2)
    for number in range(4):
        session.push(footage(80, seed=number))
        session.ask("What?", max_new_tokens=4, keep=False, logits_processor=[_all_finite])
        for layer in session.stream.layers:
            present = layer.places[0, ..., Places.PRESENT]
            assert present.max() < session.stats.position <= 128
            assert (present[..., 0].diff(dim=-1)[layer.tags[0, :, 1:, Tags.KIND] == Kind.VIDEO] >= -1e-4).all()


def test_a_range_that_is_never_left_squeezes_nothing() -> None:
    """Compact and kept positions are then the same, to the bit."""
    sessions = [
        kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 36, positions=positions)
        for positions in ("keep", "compact")
    ]
    for session in sessions:
        for number in range(3):
            session.push(footage(60, seed=number))
            session.ask("What?", max_new_tokens=4)
    for kept, squeezed in zip(*(session.stream.layers for session in sessions), strict=True):
        assert torch.equal(kept.keys, squeezed.keys)
        assert torch.equal(kept.places[..., Places.ORIGINAL], squeezed.places[..., Places.PRESENT])
    assert sessions[0].turns == sessions[1].turns


def test_kept_positions_warn_when_the_range_is_passed() -> None:
    session = kv.VideoSession(
        model_of(QWEN), TinyProcessor(QWEN), "random", 36, positions="keep", position_limit=100, chunk=8
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.push(footage(60))
    with pytest.warns(UserWarning, match="past the 100 that the model was trained for"):
        session.push(footage(60))
    assert session.stats.position > 100


def test_the_range_is_what_the_configuration_says() -> None:
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 36)
    assert session.stream.position_limit == model_of(QWEN).config.get_text_config().max_position_embeddings == 4096


GAPS = {
    "between chunks": ([0, 1, 2, 3, 4, 5, 6, 7], 100_000),
    "inside a chunk": ([0, 1, 2, 3, 100_000, 100_001, 100_002, 100_003], 100_004),
    "again and again": ([0, 1, 1e5, 1e5 + 1, 2e5, 2e5 + 1, 3e5, 3e5 + 1], 4e5),
}


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_longer_than_the_range(gap: str, asked: bool) -> None:
    """A camera that sleeps for a day. Time goes on after it, in order, inside the range."""
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 60, chunk=16, position_limit=LIMIT)
    session.push(footage(8, seed=1), [-8, -7, -6, -5, -4, -3, -2, -1])
    if asked:
        session.ask("What?", max_new_tokens=3)
    times, then = GAPS[gap]
    session.push(footage(8, seed=2), times)
    session.push(footage(8, seed=3), [then + number for number in range(8)])
    session.ask("What?", max_new_tokens=3)
    assert session.stats.visual_tokens == 3 * 16
    layer = session.stream.layers[0]
    present, kind = layer.places[0, 0, :, Places.PRESENT], layer.tags[0, 0, :, Tags.KIND]
    assert present.max() < LIMIT
    frames = present[kind == Kind.VIDEO, 0].reshape(-1, 4)
    assert (frames.diff(dim=0) >= 0).all()
    assert float(frames[-1, 0] - frames[0, 0]) > 10
    words = torch.where(kind == Kind.TEXT)[0]
    for word in words.tolist():
        if word:
            assert (present[:word] < present[word, 0]).all()


def test_the_first_frames_may_come_with_a_gap() -> None:
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 60, chunk=64, position_limit=LIMIT)
    session.push(footage(16), [0, 1, 2, 3, 4, 5, 50_000, *range(50_001, 50_010)])
    session.flush()
    assert session.stats.visual_tokens == 8 * 4
    assert session.stats.position <= LIMIT


def test_text_may_take_nearly_all_of_the_range() -> None:
    """Frames give way to it."""
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 60, position_limit=LIMIT)
    while session.stats.position < 0.8 * LIMIT - 40:
        session.push(footage(20))
        session.ask("What is it?", max_new_tokens=8)
    while session.stats.text_entries < 0.7 * LIMIT:
        session.push(footage(20))
        session.ask("What is it?", max_new_tokens=8)
    assert session.stats.position <= LIMIT


def test_a_conversation_that_takes_all_positions_is_refused_and_unharmed() -> None:
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 60, position_limit=LIMIT)
    session.push(footage(20))
    session.flush()
    before = [layer.keys.clone() for layer in session.stream.layers]
    with pytest.raises(kv.CacheError, match="position_limit"):
        session.ask("What?", max_new_tokens=2 * LIMIT)
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(session.stream.layers, before, strict=True))
    assert session.ask("What?", max_new_tokens=4)


def test_a_squeeze_is_the_same_for_a_fork() -> None:
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "random", 60, position_limit=128)
    session.push(footage(200))
    session.ask("What?", max_new_tokens=4)
    session.push(footage(30, seed=1))
    fork = session.fork()
    for each in (session, fork):
        for number in range(4):
            each.push(footage(100, seed=number))
        each.ask("And now?", max_new_tokens=8)
    assert fork.turns == session.turns
    for one, other in zip(session.stream.layers, fork.stream.layers, strict=True):
        assert torch.equal(one.keys, other.keys)


def _often_asked(positions: Any, count: int, **options: Any) -> kv.VideoSession:
    session = tiny("recent", 16, positions=positions, chunk=16, **options)
    for number in range(count):
        session.push(footage(4, seed=number), [40.0 * number + 10 * step for step in range(4)])
        session.ask("?", max_new_tokens=1)
    return session


def test_runs_of_which_nothing_is_held_are_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    session = _often_asked("keep", 50)
    assert 2 <= len(session.stream.timeline.runs) <= 20
    session.save(tmp_path / "a.kvv")
    loaded = kv.VideoSession.load(tmp_path / "a.kvv", session.model, session.processor)
    monkeypatch.setattr("kvpress_video.streaming.stream._LEAST_RUNS", 10**6)
    whole = _often_asked("keep", 50)
    assert len(whole.stream.timeline.runs) == 50
    wanted = ask(whole, "And now?", max_new_tokens=5).logits
    for each in (session, loaded):
        found = ask(each, "And now?", max_new_tokens=5).logits
        assert all(map(torch.equal, found, wanted))


def test_gaps_of_a_stream_close_when_positions_run_out() -> None:
    """Text of one question stays together, in order, and takes no more positions than it has tokens."""
    session = _often_asked("compact", 50, position_limit=2200)
    timeline, layer = session.stream.timeline, session.stream.layers[0]
    assert len(timeline.runs) <= 20
    assert session.stats.position <= 2200
    places = layer.places[0, 0, :, Places.PRESENT.start]
    text = places[layer.tags[0, 0, :, Tags.KIND] == Kind.TEXT]
    assert torch.equal(text, text.round())
    assert (places.diff() > -1e-3).all()
    taken = sum(end - start for start, end in [*((run.start, run.end) for run in timeline.runs), *timeline.gaps])
    assert len(text) + taken == session.stats.position
    before = session.stats.position
    session.stream.make_room(2200 - before + 1)
    assert not session.stream.timeline.gaps
    moved = layer.places[0, 0, :, Places.PRESENT.start][layer.tags[0, 0, :, Tags.KIND] == Kind.TEXT]
    assert (moved.diff() >= 1).all()
    assert int((moved.diff() > 1).sum()) <= len(session.stream.timeline.runs)
    assert session.ask("What?", max_new_tokens=3)
