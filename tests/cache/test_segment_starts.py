"""What a layer's rows say of where its segments are, and that only what is known to be in one piece is taken for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, model_of, two_videos

import kvpress_video as kv
from kvpress_video.cache.allocation import Share
from kvpress_video.cache.eviction import plan_eviction
from kvpress_video.cache.forward_pass import RowState
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Context, Entries, Grid, Tags
from kvpress_video.compressor.registry import make_method

MINE = SETTINGS | {"detachable": {"scorer": "van", "window": 0.9}, "per-layer": {"shares": (1.02, 0.98)},
                   "pyramid": {"beta": 1.02}, "vfl-drop": {"left": 38}}  # fmt: skip
WRITTEN = [family for family in zoo.FAMILIES if family.startswith("qwen3")]


class Watch:
    """Compares rows with tags after every change of a layer.

    Attributes:
        stretches: how often a segment was found where its row says.
        apart: how often a segment had no place of its own.
    """

    def __init__(self) -> None:
        self.stretches = self.apart = 0

    def look(self, layer: CompressedLayer) -> None:
        segment = layer.tags[..., Tags.SEGMENT]
        padding = layer.tags[..., Tags.INDEX] < 0
        for number, row in enumerate(layer.rows):
            real = [head[~hidden] for head, hidden in zip(segment[number], padding[number], strict=True)]
            assert row.loose or bool(padding[number, :, : row.padding].all())
            for name, held in row.held.items():
                start = row.starts.get(name)
                self.apart += start is None
                if start is not None and held:
                    self.stretches += 1
                    assert all((head[start : start + held] == name).all() for head in real)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    found = Watch()
    update, keep = CompressedLayer.update, CompressedLayer.keep

    def watched_update(layer: CompressedLayer, *args: Any, **kwargs: Any) -> Any:
        made = update(layer, *args, **kwargs)
        found.look(layer)
        return made

    def watched_keep(layer: CompressedLayer, left: Any) -> None:
        keep(layer, left)
        found.look(layer)

    monkeypatch.setattr(CompressedLayer, "update", watched_update)
    monkeypatch.setattr(CompressedLayer, "keep", watched_keep)
    return found


@pytest.mark.sampled
@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_segments_where_rows_say(method: str, watch: Watch) -> None:
    model = model_of("qwen2_5_vl", "eager")
    for prompts in (zoo.default_prompts("qwen2_5_vl"), [two_videos("qwen2_5_vl")]):
        inputs = zoo.inputs(model, prompts)
        for budget, chunk in (("50%", None), (40, 12)):
            with kv.compress(model, method, budget, chunk=chunk, **MINE.get(method, {})):
                answer(model, inputs)
    assert watch.stretches > 100
    assert not watch.apart


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_text_between_frames_keeps_a_segment_from_having_a_place(family: str, watch: Watch) -> None:
    model = model_of(family, "eager")
    inputs = zoo.inputs(model, zoo.default_prompts(family))
    with kv.compress(model, "key-norm", "50%"):
        answer(model, inputs)
    assert (watch.apart > 0) == (family in WRITTEN or zoo.TABLE[family].frames_are_images or "llama_3" in family)


def test_a_question_keeps_the_frames_after_it_from_joining_those_before(
    watch: Watch, bundled: tuple[Any, Any], tmp_path: Path
) -> None:
    model, processor = bundled
    frames = torch.randint(0, 256, (24, 112, 112, 3), dtype=torch.uint8).numpy()
    session = kv.VideoSession(model, processor, "key-norm", 64, chunk=32)
    session.push(frames)
    session.flush()
    assert watch.stretches
    assert not watch.apart
    session.save(tmp_path / "mine.safetensors")
    loaded = kv.VideoSession.load(tmp_path / "mine.safetensors", model, processor)
    assert [layer.rows for layer in loaded.stream.layers] == [layer.rows for layer in session.stream.layers]
    session.ask("what?", max_new_tokens=2)
    session.push(frames)
    session.flush()
    assert watch.apart


def test_a_wrong_place_is_noticed(watch: Watch) -> None:
    """The watch itself: a row that says its segment starts an entry later."""
    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, zoo.default_prompts("qwen2_5_vl")[:1])
    with kv.compress(model, "key-norm", "50%"):
        cache = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True).past_key_values
    layer = cache.layers[0]
    layer.rows = [replace(row, starts={name: start + 1 for name, start in row.starts.items()}) for row in layer.rows]
    with pytest.raises(AssertionError):
        watch.look(layer)


@pytest.mark.parametrize("method", METHODS)
def test_a_segment_in_one_piece_is_compressed_as_if_nothing_were_known_of_it(method: str) -> None:
    """The two ways to find a segment's entries leave the same, to the bit."""
    prompt = zoo.Prompt([zoo.Text(4, seed=4), zoo.Video(9, 3, 4, seed=5), zoo.Text(3, seed=6), zoo.Image(2, 3, seed=7),
                         zoo.Text(6, seed=8)])  # fmt: skip
    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, [prompt])
    seen = []

    def both(entries: Any, rows: Any, keep: Any, made: Any) -> Any:
        known = plan_eviction(entries, rows, keep, made)
        unknown = plan_eviction(entries, [replace(row, starts={}) for row in rows], keep, made)
        seen.append((known.of(entries), unknown.of(entries)))
        return known

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvpress_video.cache.layer.plan_eviction", both)
        with kv.compress(model, method, "50%", **MINE.get(method, {})):
            answer(model, inputs)
    assert seen
    for known, unknown in seen:
        for part in ("keys", "values", "tags", "places"):
            both_ways = (getattr(known, part), getattr(unknown, part))
            torch.testing.assert_close(*both_ways, rtol=0, atol=0, equal_nan=True)


def test_padding_anywhere_takes_no_token_with_it() -> None:
    """A row padded on the right, and one with a hole, beside a whole one: text stays, padding goes."""
    model = model_of("qwen2_5_vl", "eager")
    prompts = zoo.default_prompts("qwen2_5_vl")[:2]
    left = zoo.inputs(model, prompts)
    with kv.compress(model, "key-norm", "50%", prefill="whole") as run, torch.no_grad():
        model(**left)
    wanted = [[head[head >= 0].tolist() for head in row] for row in run.kept[1]]
    shift = int((left["attention_mask"][0] == 0).sum())
    assert shift
    right = dict(left)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in left:
            right[name] = torch.stack([left[name][0].roll(-shift), left[name][1]])
    with kv.compress(model, "key-norm", "50%", prefill="whole") as run, torch.no_grad():
        model(**right)
    found = [[head[head >= 0].tolist() for head in row] for row in run.kept[1]]
    assert [len(head) for head in found[0]] == [len(head) for head in wanted[0]]
    assert all(set(range(4)) <= set(head) for head in found[0])  # the text at its beginning
    assert found[1] == wanted[1]


def test_a_row_with_padding_inside_is_not_taken_for_one_with_padding_in_front() -> None:
    tags = torch.full((2, 1, 8, 6), -1, dtype=torch.int32)
    for row, kinds in enumerate(("ppttvvvt", "ttppvvvt")):
        for slot, kind in enumerate(kinds):
            if kind != "p":
                tags[row, 0, slot, Tags.INDEX], tags[row, 0, slot, Tags.KIND] = slot, 2 if kind == "v" else 0
            if kind == "v":
                tags[row, 0, slot, Tags.SEGMENT :] = torch.tensor([0, slot - 4, 0, 0])
    states = torch.randn(2, 1, 8, 4)
    entries = Entries(states, states, tags, torch.zeros(2, 1, 8, 4), Context())
    row = RowState(2, {0: 3}, {0: 3}, {0: Grid(3, 1, 1)}, {0: 2})
    left = plan_eviction(
        entries, [row, replace(row, loose=True)], [{0: Share(1)}, {0: Share(1)}], make_method("recent")
    )
    assert left.slots[:, 0].tolist() == [[2, 3, 6, 7], [0, 1, 6, 7]]


def test_slots_that_are_not_in_order_are_an_error() -> None:
    class Backwards(kv.Compressor):
        def select(self, entries: Any, keep: int) -> Any:
            return torch.arange(keep).flip(0).expand(*entries.keys.shape[:2], -1)

    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, zoo.default_prompts("qwen2_5_vl")[:1])
    with kv.compress(model, Backwards(), "50%"), pytest.raises(kv.BudgetError, match="ascending order"):
        answer(model, inputs)


def test_a_method_that_overrides_what_nothing_calls_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"override reduce\(\)"):

        class Merging(kv.Compressor):
            def compress(self, entries: Any, keep: int) -> Any:
                return entries
