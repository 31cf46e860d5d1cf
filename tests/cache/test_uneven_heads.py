"""Heads that keep different numbers of entries: exact sums, freed memory, and answers against masked stock models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import after_frames, answer, compressed, model_of, two_videos, video_prompt
from reference_masks import blinded_answer, evicted, masked_answer, noted, view_of
from sessions import TinyProcessor, footage
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.flat import FlatBuffers, PaddedRoom
from kvpress_video.cache.uneven_layer import UnevenLayer
from kvpress_video.compressor import Compressor, Entries, Tags, make_method
from kvpress_video.contract.on_entries import check_kept, same
from kvpress_video.contract.random_entries import first_frames, later
from kvpress_video.contract.random_entries import footage as random_entries
from kvpress_video.errors import BudgetError, CacheError, MethodError, UnknownNameError, UnsupportedModelError

QWEN = zoo.FAMILIES[0]
FAMILIES = [family for family in (QWEN, "qwen3_vl", "llava_next_video", "gemma3") if family in zoo.FAMILIES]
BASES = ("snapkv", "infinipot-v")
VISUAL = 72  # tokens of `video_prompt(QWEN)`


def _counts(kept: list[Tensor]) -> list[list[list[int]]]:
    """Entries by layer, row and head."""
    return [(layer >= 0).sum(dim=-1).tolist() for layer in kept]


def _differ(kept: list[Tensor]) -> bool:
    return any(len(set(heads)) > 1 for layer in _counts(kept) for heads in layer)


# --- The method -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["snapkv", "infinipot-v", "key-norm", "critical", "bucketed", "standby-novelty"])
def test_with_alpha_1_the_selection_is_that_of_the_base(base: str) -> None:
    one, entries = make_method(base), random_entries(batch=2)
    ada = make_method("ada", base=base, alpha=1.0)
    kept = one.compress(first_frames(entries, 7), 33), ada.compress(first_frames(entries, 7), 33)
    assert same(*kept)
    grown = [later(survivors, entries, 7) for survivors in kept]
    assert same(one.compress(grown[0], 40), ada.compress(grown[1], 40))


def test_the_best_entries_of_any_head_stay_and_a_floor_of_each() -> None:
    entries = random_entries(heads=3)
    entries.keys[:, 0] *= 0.01  # the shortest keys are all in the first head
    kept = make_method("ada", base="key-norm", alpha=0.25).compress(entries, 20)
    assert (kept.index >= 0).sum(dim=-1).tolist() == [[50, 5, 5]]
    norms = entries.keys.norm(dim=-1)[0, 1]
    assert set(kept.index[0, 1, -5:].tolist()) == set(norms.topk(5, largest=False).indices.tolist())
    alone = make_method("ada", base="key-norm", alpha=0.0).compress(entries, 20)
    assert (alone.index >= 0).sum(dim=-1).tolist() == [[60, 0, 0]]
    check_kept(alone, entries, 20, uneven=True)


def test_heads_of_different_lengths_are_scored_without_their_padding() -> None:
    """A head keeps the same survivors as without padding in front."""
    entries, ada = random_entries(heads=3, batch=2), make_method("ada", base="novelty", alpha=0.5)
    second = later(ada.compress(first_frames(entries, 7), 20), entries, 7)
    lengths = (second.index >= 0).sum(dim=-1)
    assert len(set(lengths.flatten().tolist())) > 2
    stays = ada.select_uneven(second, 30)
    assert stays.sum(dim=(1, 2)).tolist() == [90, 90]
    assert not (stays & (second.index < 0)).any()
    novelty = make_method("novelty")
    for row, heads in enumerate(second.by_head()):
        for number, head in enumerate(heads):
            own = stays[row, number, -len(head) :]
            ranking = novelty.ranking(head, 30)[0, 0]
            assert ranking[own].min() >= ranking[~own].max()


def _uneven(stays: Any) -> Compressor:
    @dataclass(frozen=True)
    class Careless(Compressor):
        uneven = True

        def scores(self, entries: Entries) -> Tensor:
            return entries.keys.norm(dim=-1)

        def select_uneven(self, entries: Entries, keep: int) -> Any:
            return stays(entries, keep)

    return Careless()


def _first(entries: Entries, keep: int) -> Tensor:
    return (torch.arange(len(entries)) < keep).expand(entries.keys.shape[:3])


@pytest.mark.parametrize(
    ("stays", "error", "hint"),
    [
        (lambda entries, keep: _first(entries, keep + 1), BudgetError, "63 entries .* where 60 were asked for, 20 per"),
        (lambda entries, keep: _first(entries, keep).int(), MethodError, "return a bool tensor"),
        (_first, BudgetError, "padding was kept"),
    ],
)
def test_a_wrong_selection_is_an_error(stays: Any, error: type[Exception], hint: str) -> None:
    entries = random_entries(heads=3)
    if stays is _first:
        entries = entries.where(_first(entries, 60) & (torch.arange(3)[:, None] > 0) | _first(entries, 40))
    with pytest.raises(error, match=hint):
        _uneven(stays).compress(entries, 20)


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_budget_that_holds_everything_changes_nothing(attention: str) -> None:
    model = model_of(QWEN, attention)
    inputs = zoo.inputs(model, zoo.default_prompts(QWEN))
    stock = answer(model, inputs)
    for options in ({"budget": "100%"}, {"budget": 10_000, "chunk": 26}):
        with kv.compress(model, "ada", **options) as run:
            ours = answer(model, inputs)
        assert run.report.ratio == 1
        if attention == "eager" and "chunk" not in options:
            assert torch.equal(ours.logits, stock.logits)
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "attention"), [*((each, "eager") for each in FAMILIES), (QWEN, "sdpa")])
@pytest.mark.parametrize("prefill", ["split", "whole"])
def test_answers_equal_the_stock_model_with_evicted_entries_masked(family: str, attention: str, prefill: Any) -> None:
    model, prompt = model_of(family, attention), two_videos(family)
    inputs = zoo.inputs(model, [prompt])
    length = inputs["input_ids"].shape[1]
    with kv.compress(model, "ada", "50%", prefill=prefill) as run:
        ours = answer(model, inputs)
    assert _differ(run.kept)
    hidden = [evicted(kept[0], length) for kept in run.kept]
    blind_from = after_frames(family, prompt, inputs["input_ids"][0]) if prefill == "split" else length
    masked = blinded_answer(model_of(family, "eager"), inputs, hidden, ours.tokens, blind_from)
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_chunked_answers_equal_the_stock_model_masked_chunk_by_chunk(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(QWEN, "eager")
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    length = inputs["input_ids"].shape[1]
    with noted(monkeypatch) as log, kv.compress(model, "ada", 20, chunk=26, base=base) as run:
        ours = answer(model, inputs)
    assert _differ(run.kept)
    for layer in _counts(run.kept):
        assert sum(layer[0]) == len(layer[0]) * (20 + length - VISUAL)
    columns = [index[0].long() for _, _, index in log.came[0] if int(index[0, -1]) < length]
    masked = masked_answer(model, inputs, ours.tokens, view_of(log, length, columns))
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"budget": "50%"}, {"budget": 20, "chunk": 26}, {"budget": 20, "chunk": 26, "positions": "compact"}]
)
def test_a_left_padded_batch_equals_its_rows_alone(options: dict[str, Any]) -> None:
    model, prompts = model_of(QWEN), zoo.default_prompts(QWEN)
    with kv.compress(model, "ada", **options) as run:
        together = answer(model, zoo.inputs(model, prompts))
        assert _differ(run.kept)
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


def test_rows_that_are_alike_and_beams_hold_what_one_row_does() -> None:
    """Chunks of equal rows are read once; beams repeat and reorder rows."""
    model = model_of(QWEN)
    one, both = (zoo.inputs(model, [video_prompt(QWEN)] * rows) for rows in (1, 2))
    with kv.compress(model, "ada", 20, chunk=26):
        alone, together = answer(model, one), answer(model, both)
        beams = [
            model.generate(**inputs, max_new_tokens=4, num_beams=2, use_cache=True)[:, -4:] for inputs in (one, both)
        ]
    torch.testing.assert_close(together.logits, alone.logits.expand(2, -1, -1), rtol=0, atol=2e-5)
    assert torch.equal(beams[1], beams[0].expand(2, -1))


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_what_heads_do_not_keep_is_freed() -> None:
    """Bytes of the layers are those of the storage, and those of a method that keeps as many in each head."""
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    bytes_held = []
    for method in ("ada", "snapkv"):
        with kv.compress(model, method, "25%", prefill="whole") as run:
            layers = compressed(answer(model, inputs, new=1).output.past_key_values)
        bytes_held.append(sum(layer.bytes for layer in layers))
        if method == "ada":
            assert _differ(run.kept)
            assert all(isinstance(layer, UnevenLayer) for layer in layers)
            parts = [part for layer in layers for part in layer._buffers._flat]
            assert sum(part.untyped_storage().nbytes() for part in parts) == bytes_held[0]
            assert run.report.bytes == bytes_held[0]  # nothing has read the layers since
    assert bytes_held[0] == bytes_held[1]


@pytest.mark.parametrize("options", [{}, {"chunk": 12}, {"prefill": "whole"}])
def test_a_budget_of_bytes_pays_for_the_padding_that_is_read(options: dict[str, Any]) -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN, 12)])
    with kv.compress(model, "full", "100%") as whole:
        answer(model, inputs, new=1)
    budget = whole.report.bytes
    with kv.compress(model, "ada", f"{budget}B", **options) as run:
        layers = compressed(answer(model, inputs, new=1).output.past_key_values)
    assert _differ(run.kept)
    assert run.report.bytes <= run.report.peak_bytes <= budget
    assert sum(layer.bytes for layer in layers) + layers[0].staging_bytes <= budget


def test_a_stream_meets_its_budget_and_takes_back_a_question() -> None:
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "ada", 24, chunk=16)
    for seed in range(3):
        session.push(footage(8, seed=seed))
    before = session.stats.bytes
    first = session.ask("what?", max_new_tokens=4)
    session.take_back()
    assert session.stats.bytes == before
    assert session.ask("what?", max_new_tokens=4) == first
    layers = session.stream.layers
    assert _differ([layer.kept for layer in layers])
    for layer in layers:
        visual = (layer.tags[..., Tags.KIND] > 0).sum()
        assert visual == 24 * layer.heads == layer.rows[0].visual * layer.heads
        assert layer.bytes == sum(part.nbytes for part in layer._buffers._flat) + layer._buffers.length * (
            layer.bytes // (int((layer.kept >= 0).sum()) // layer.heads)
        )


def test_a_stream_never_exceeds_a_budget_of_bytes() -> None:
    model, budget = model_of(QWEN), 420_000
    session = kv.VideoSession(model, TinyProcessor(QWEN), "ada:base=key-norm", f"{budget}B", text_room=40)
    for seed in range(6):
        session.push(footage(16, seed=seed))
        session.ask("what?", max_new_tokens=2)
    layers = session.stream.layers
    assert _differ([layer.kept for layer in layers])
    assert session.stats.evicted_turns > 0
    assert sum(layer.bytes for layer in layers) + layers[0].staging_bytes <= session.stats.peak_bytes <= budget


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_forks_answer_alike_and_turns_leave_nothing_behind(positions: Any) -> None:
    settings: dict[str, Any] = {"chunk": 16, "positions": positions, "keep_turns": 1}
    session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), "ada", 24, **settings)
    session.push(footage(24))
    other = session.fork()
    session.ask("who?", max_new_tokens=4)
    assert session.ask("what?", max_new_tokens=4) != ""
    assert session.stats.evicted_turns == 1
    asked, never = session.stream.layers, other.stream.layers
    other.ask("what?", max_new_tokens=4)
    for one, two in zip(asked, never, strict=True):
        assert (one.kept >= 0).sum(dim=-1).tolist() == (two.kept >= 0).sum(dim=-1).tolist()
        shown = [layer.kept[layer.tags[..., Tags.KIND] > 0] for layer in (one, two)]
        assert torch.equal(*shown)
    before = [layer.kept for layer in never]
    assert _differ(before)


def test_a_stream_at_compact_positions_equals_its_base_where_heads_keep_as_many() -> None:
    answers = []
    for method in ("key-norm", "ada:base=key-norm,alpha=1.0"):
        session = kv.VideoSession(model_of(QWEN), TinyProcessor(QWEN), method, 24, chunk=16, position_limit=100)
        for seed in range(12):
            session.push(footage(8, seed=seed))
        answers.append((session.ask("what?", max_new_tokens=6), session.stream.following))
    assert answers[0] == answers[1]


def test_flat_buffers_lay_out_what_a_rectangle_would_hold() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 9, width, generator=draw) for width in (4, 4)]
    parts += [torch.arange(54).view(2, 3, 9, 1).expand(-1, -1, -1, Tags.WIDTH).int(), parts[0][..., :1]]
    buffers = FlatBuffers(PaddedRoom())
    buffers.append([part[:, :, :7] for part in parts])
    stays = torch.rand(2, 3, 7, generator=draw) > 0.4
    buffers.keep_uneven(stays)
    buffers.append([part[:, :, 7:] for part in parts])
    buffers.map_rows(lambda part: part.index_select(0, torch.tensor([1, 0, 1])))
    buffers.drop_last(3)
    real = buffers.real()
    assert buffers.uneven
    for row, source in enumerate((1, 0, 1)):
        for head in range(3):
            expected = stays[source, head].nonzero()[:-1, 0]
            for held, part in zip(buffers.held, parts, strict=True):
                assert torch.equal(held[row, head][real[row, head]], part[source, head, expected])


# --- What it refuses --------------------------------------------------------------------------------------------------


def test_what_needs_equal_heads_is_refused(tmp_path: Path) -> None:
    model = model_of(QWEN)
    with pytest.raises(BudgetError, match="no bank on 'cpu'"):
        kv.VideoSession(model, TinyProcessor(QWEN), "ada", 24, bank_on="cpu")
    session = kv.VideoSession(model, TinyProcessor(QWEN), "ada", 24)
    session.push(footage(24))
    for refused in (lambda: session.save(tmp_path / "session"), lambda: kv.ask_all([session], "what?")):
        with pytest.raises(CacheError, match="needs equal numbers of entries"):
            refused()
    with pytest.raises(CacheError, match="different numbers of entries"):
        kv.VideoSession.restore(session.snapshot(), model, session.processor, method="snapkv")
    for base, error, hint in (
        ("uniform", UnknownNameError, "takes one score per entry"),
        ("pyramid", BudgetError, "wrap it around Ada"),
        ("ada", BudgetError, "makes heads differ and cannot be the base of Ada"),
    ):
        with pytest.raises(error, match=hint):
            make_method("ada", base=base)


def test_flash_attention_is_refused() -> None:
    model = zoo.build(QWEN, "sdpa")
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="attn_implementation='sdpa'"), kv.compress(model, "ada", "50%"):
        pass
