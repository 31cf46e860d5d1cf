"""Chunked prefill against references that keep everything, mask by hand, or compress by hand, chunk after chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, model_of, two_videos, video_prompt
from reference_masks import masked_answer, noted, view_of
from torch import Tensor
from transformers import DynamicCache

import kvpress_video as kv
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Context, Entries, Grid, Kind, Places, Tags
from kvpress_video.compressor.registry import make_method

ATTENTIONS = ("eager", "sdpa")
QWEN = zoo.FAMILIES[0]
CHUNK = 26  # two frames of Qwen's twelve tokens, one of LLaVA's sixteen or nine


# --- A budget that holds everything -----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_budget_that_holds_everything_changes_nothing(family: str, attention: str, positions: Any) -> None:
    """Rows of different layouts, an image before a video, and two videos."""
    model = model_of(family, attention)
    batches = [zoo.default_prompts(family), [two_videos(family)]]
    passes: list[int] = []
    handle = model.get_decoder().layers[0].register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        for prompts in batches:
            inputs = zoo.inputs(model, prompts)
            stock = answer(model, inputs)
            passes.clear()
            budget = 10_000 if positions == "keep" else "1GiB"
            with kv.compress(model, "infinipot-v", budget, chunk=CHUNK, positions=positions) as run:
                ours = answer(model, inputs)
            assert run.report.prefill == "chunked"
            assert run.report.ratio == 1
            assert len(passes) >= 4 + 3  # three chunks, the text after them, four answers
            torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
            assert torch.equal(ours.tokens, stock.tokens)
    finally:
        handle.remove()


@pytest.mark.parametrize("family", zoo.FAMILIES[:1] + zoo.FAMILIES[-1:])
def test_bfloat16_is_as_close_to_float32_as_the_stock_model(family: str) -> None:
    model = zoo.build(family, "sdpa", torch.bfloat16)
    inputs = zoo.inputs(model, zoo.default_prompts(family))
    inputs = {name: part.bfloat16() if part.is_floating_point() else part for name, part in inputs.items()}
    exact = answer(model_of(family), {name: part.float() if part.is_floating_point() else part
                                      for name, part in inputs.items()}, new=1).logits  # fmt: skip
    stock = answer(model, inputs, new=1).logits.float()
    with kv.compress(model, "van", 10_000, chunk=CHUNK):
        ours = answer(model, inputs, new=1).logits.float()
    assert (ours - exact).abs().mean() < 1.5 * (stock - exact).abs().mean()


@pytest.mark.parametrize("chunk", [1, 12, 13, 71, 72, 1000])
def test_any_size_of_chunk_is_whole_frames(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A video of six frames of twelve tokens."""
    model = model_of(QWEN, "eager")
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    stock = answer(model, inputs)
    with noted(monkeypatch) as log, kv.compress(model, "van", 10_000, chunk=chunk):
        ours = answer(model, inputs)
    torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
    size = 12 * min(6, max(1, chunk // 12))
    visual = [slot.token for slot in zoo.expected_layout(QWEN, video_prompt(QWEN))]
    counts = [sum(int(token) in visual for token in index[0]) for _, _, index in log.came[0]]
    assert [count for count in counts if count] == [size] * (72 // size) + [72 % size] * (72 % size > 0)


def test_text_alone_is_left_alone() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Text(9, seed=1)]), zoo.Prompt([zoo.Text(5, seed=2)])])
    stock = answer(model, inputs)
    with kv.compress(model, "van", 12, prefill="chunked") as run:
        ours = answer(model, inputs)
    torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
    assert not run.reports


def test_rows_without_a_video_beside_rows_with_one() -> None:
    model = model_of(QWEN)
    words = zoo.Prompt([zoo.Text(30, seed=20)])
    prompts = [words, video_prompt(QWEN), zoo.Prompt([zoo.Text(2, seed=21)])]
    with kv.compress(model, "infinipot-v", 20, chunk=12):
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("method", "attention", "positions"),
    [(method, "sdpa", "keep") for method in METHODS]
    + [("infinipot-v", "eager", "keep"), ("snapkv", "eager", "compact"), ("average-pooling", "sdpa", "compact")],
)
def test_a_left_padded_batch_equals_its_rows_alone(method: str, attention: str, positions: Any) -> None:
    """Rows of other layouts and lengths, each with its own number of chunks."""
    model = model_of(QWEN, attention)
    prompts = zoo.default_prompts(QWEN)
    options = {"chunk": 12, "positions": positions} | SETTINGS.get(method, {})
    gentle = {"per-layer": {"shares": (1.2, 0.8)}, "pyramid": {"beta": 1.2}}
    options |= gentle.get(method, {})  # 36 visual tokens in the shortest row
    with kv.compress(model, method, 27, **options) as run:
        together = answer(model, zoo.inputs(model, prompts), 3)
        alone = [answer(model, zoo.inputs(model, [prompt]), 3) for prompt in prompts]
    assert len(run.reports) == 1 + len(prompts)
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=3e-5)


@pytest.mark.parametrize("family", zoo.FAMILIES[1:])
def test_a_left_padded_batch_equals_its_rows_alone_in_every_family(family: str) -> None:
    model = model_of(family)
    longer = zoo.Prompt([zoo.Text(9, seed=9), zoo.Video(6, *zoo.grid(family), seed=12), zoo.Text(3, seed=13)])
    prompts = [video_prompt(family), longer]
    with kv.compress(model, "snapkv", 24, chunk=CHUNK):
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


# --- The cap ----------------------------------------------------------------------------------------------------------

CAPPED = ["infinipot-v", "random", "average-pooling", "standby", "snapkv", "detachable"]


def _prompt(frames: int) -> zoo.Prompt:
    return zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(frames, *zoo.grid(QWEN), seed=2), zoo.Text(8, seed=3)])


def _entry(model: Any, compact: bool = False) -> int:
    """Bytes of one entry of a layer: keys, values, tags and places of each head."""
    text = model.config.get_text_config()
    metadata = 4 * Tags.WIDTH + 4 * (Places.COMPACT_WIDTH if compact else Places.WIDTH)
    return text.num_key_value_heads * (2 * text.head_dim * 4 + metadata)


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("method", CAPPED)
def test_a_budget_of_tokens_and_a_chunk_cap_every_layer_at_every_step(
    method: str, positions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, budget, chunk = model_of(QWEN), 40, 24
    options = {"chunk": chunk, "positions": positions} | SETTINGS.get(method, {})
    peaks = []
    for frames in (10, 40):
        inputs = zoo.inputs(model, [_prompt(frames)])
        with noted(monkeypatch) as log, kv.compress(model, method, budget, **options) as run:
            answer(model, inputs, 1)
        text = inputs["input_ids"].shape[1] - 12 * frames
        assert max(log.longest.values()) <= budget + chunk + text
        assert run.report.entries == (budget,) * 4
        assert run.report.peak_bytes == log.peak
        entry = _entry(model, positions == "compact")
        assert run.report.bytes == 4 * (budget + text) * entry
        assert log.peak <= (4 * (budget + text) + chunk) * entry
        peaks.append(log.peak)
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("method", CAPPED)
def test_a_budget_of_bytes_and_a_chunk_cap_everything_at_every_step(
    method: str, positions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, metadata and the text that is still to come are in it."""
    model, chunk = model_of(QWEN), 24
    entry = _entry(model, positions == "compact")
    budget = 4 * 61 * entry + 7
    options = {"chunk": chunk, "positions": positions} | SETTINGS.get(method, {})
    peaks = []
    for frames in (10, 40):
        inputs = zoo.inputs(model, [_prompt(frames)])
        with noted(monkeypatch) as log, kv.compress(model, method, f"{budget}B", **options) as run:
            answer(model, inputs, 1)
        text = inputs["input_ids"].shape[1] - 12 * frames
        assert run.report.bytes == budget - 7
        assert run.report.entries == (61 - text,) * 4
        assert run.report.peak_bytes == log.peak <= budget
        peaks.append(log.peak)
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("method", ["infinipot-v", "snapkv"])
def test_a_budget_of_bytes_caps_a_batch_of_unequal_rows(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is paid for like everything else, and so is the chunk in work."""
    model, chunk = model_of(QWEN), 12
    budget = 3 * 4 * 50 * _entry(model)
    prompts = zoo.default_prompts(QWEN)
    with noted(monkeypatch) as log, kv.compress(model, method, f"{budget}B", chunk=chunk) as run:
        answer(model, zoo.inputs(model, prompts), 1)
    assert run.report.bytes <= budget
    assert run.report.peak_bytes == log.peak <= budget


def test_the_usual_chunk_is_a_third_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [_prompt(30)])
    budget = 4 * (108 + 15) * _entry(model)
    for asked in (108, f"{budget}B"):  # of what bytes leave beside the text
        with noted(monkeypatch) as log, kv.compress(model, "van", asked) as run:
            answer(model, inputs, 1)
        sizes = [index.shape[1] for _, _, index in log.came[0]]
        assert run.report.prefill == "chunked"
        assert max(sizes[1:-1]) == 36
        assert len(sizes) == 11


def test_the_vision_tower_is_given_no_more_than_a_chunk() -> None:
    model = model_of(QWEN)
    seen: list[int] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append(len(args[0] if args else kwargs["hidden_states"]) // zoo.MERGE**2)

    handle = model.base_model.visual.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with kv.compress(model, "van", 40, chunk=24):
            answer(model, zoo.inputs(model, [_prompt(10)]), 1)
    finally:
        handle.remove()
    assert max(seen) == 24
    assert sum(seen) == 120


@pytest.mark.parametrize("chunk", [12, 24, 72])
def test_layers_of_unequal_budgets_are_filled_chunk_by_chunk(chunk: int) -> None:
    """A layer that may hold more than has come by then holds all of that."""
    model = model_of(QWEN)
    with kv.compress(model, "per-layer", 27, chunk=chunk, shares=(1.5, 0.5)) as run:
        answer(model, zoo.inputs(model, [video_prompt(QWEN)]))
    assert sum(run.report.entries) == 4 * 27
    assert run.report.entries == pytest.approx((40.5, 40.5, 13.5, 13.5), abs=1)


# --- The choice, by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [30, "40%"])
@pytest.mark.parametrize("method", ["random", "key-norm", "infinipot-v", "van", "recent"])
def test_each_chunk_is_compressed_as_the_method_does_by_hand(
    method: str, budget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop over the keys and values that came to each layer, and nothing else of ours than the method."""
    model, family = model_of(QWEN, "eager"), QWEN
    prompt = zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(7, *zoo.grid(family), seed=2), zoo.Text(8, seed=3)])
    slots = {slot.token: slot for slot in zoo.expected_layout(family, prompt)}
    with noted(monkeypatch) as log, kv.compress(model, method, budget, prefill="chunked", chunk=24) as run:
        answer(model, zoo.inputs(model, [prompt]), 1)
    made = make_method(method)
    for layer, passes in log.came.items():
        keys, values, index = torch.empty(1, 2, 0, 16), torch.empty(1, 2, 0, 16), torch.empty(1, 2, 0, dtype=torch.long)
        seen = 0
        for new_keys, new_values, came in passes[:-1]:
            visual = torch.tensor([int(token) in slots for token in came[0]])
            seen += int(visual.sum())
            keys = torch.cat([keys, new_keys[:, :, visual]], dim=2)
            values = torch.cat([values, new_values[:, :, visual]], dim=2)
            index = torch.cat([index, came[:, None, visual].expand(-1, 2, -1).long()], dim=2)
            keep = min(30, seen) if budget == 30 else int(0.4 * seen + 0.5)
            if keep < keys.shape[2]:
                tags = torch.tensor(
                    [[[[i, Kind.VIDEO, 0, *slots[i][3:]] for i in head] for head in index[0].tolist()]],
                    dtype=torch.int32,
                )
                context = Context(grid=Grid(seen // 12, 3, 4), layer=layer, layers=4)
                places = torch.full((1, 2, keys.shape[2], Places.WIDTH), torch.nan)
                chosen = made.select(Entries(keys, values, tags, places, context), keep)
                wide = chosen[..., None].expand(-1, -1, -1, 16)
                keys, values, index = keys.gather(2, wide), values.gather(2, wide), index.gather(2, chosen)
        found = run.kept[layer]
        found = torch.stack([head[torch.tensor([int(i) in slots for i in head])] for head in found[0]])
        assert torch.equal(found.long(), index[0])


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("method", ["random", "infinipot-v", "snapkv"])
@pytest.mark.parametrize("family", [QWEN, zoo.FAMILIES[-1]])
def test_answers_equal_the_stock_model_with_queries_masked_to_the_entries_kept_by_then(
    family: str, method: str, two: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query of a chunk sees what was kept after the chunk before it, and its own chunk up to itself."""
    model = model_of(family, "eager")
    prompt = two_videos(family) if two else video_prompt(family)
    inputs = zoo.inputs(model, [prompt])
    length = inputs["input_ids"].shape[1]
    with noted(monkeypatch) as log, kv.compress(model, method, 20, chunk=CHUNK):
        ours = answer(model, inputs)
    columns = [index[0].long() for _, _, index in log.came[0] if int(index[0, -1]) < length]
    assert torch.equal(torch.cat(columns), torch.arange(length))
    assert len(columns) > 3
    masked = masked_answer(model, inputs, ours.tokens, view_of(log, length, columns))
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)
    with kv.compress(model, method, 20, prefill="split"):
        split = answer(model, inputs)
    assert (ours.logits - split.logits).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["random", "infinipot-v"])
def test_compact_answers_equal_the_stock_model_at_squeezed_positions(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The video's time shrinks by the ratio that is kept at its end; text goes on after it."""
    model, frames, budget, before = model_of(QWEN, "eager"), 16, 30, 1 + 4 + 1
    inputs = zoo.inputs(model, [_prompt(frames)])
    length = inputs["input_ids"].shape[1]
    with noted(monkeypatch) as log, kv.compress(model, method, budget, chunk=CHUNK, positions="compact"):
        ours = answer(model, inputs)
    seconds, rows, columns = 1.0, 3, 4  # tokens per second: 2
    patch = torch.arange(12).repeat(frames)
    time = (torch.arange(frames) * seconds * 2).repeat_interleave(12)
    ratio = budget / (12 * frames)
    stock_end = before + max(rows, columns)  # transformers goes on after rows and columns, not after time
    last = model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
    )[0][:, 0, before + 12 * frames] if "mm_token_type_ids" in inputs else None  # fmt: skip
    stock_end = int(last.max()) if last is not None else before + int(time.max()) + 1
    visual = torch.stack([before + time * ratio, before + patch // columns, before + patch % columns])
    taken = max(int(-(-(float(time.max()) + 1) * ratio // 1)), rows, columns)
    follows = before + min(taken, stock_end - before) + torch.arange(length + 5 - before - 12 * frames)
    text = torch.arange(before).expand(3, -1)
    positions = torch.cat([text, visual, follows.expand(3, -1)], dim=1)[:, None]
    passes = [index[0].long() for _, _, index in log.came[0] if int(index[0, -1]) < length]
    masked = masked_answer(model, inputs, ours.tokens, view_of(log, length, passes), positions)
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=2e-5)


# --- Rows, beams, samples, ends ---------------------------------------------------------------------------------------


def test_rows_that_share_their_video_share_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(QWEN)
    video = zoo.Video(6, *zoo.grid(QWEN), seed=2)
    prompts = [zoo.Prompt([zoo.Text(4, seed=1), video, zoo.Text(length, seed=length)]) for length in (8, 3, 5)]
    with noted(monkeypatch) as log, kv.compress(model, "infinipot-v", 30, chunk=24) as run:
        together = answer(model, zoo.inputs(model, prompts), 3)
        kept = run.kept
    assert [len(keys) for keys, _, _ in log.came[0]] == [1, 1, 1, 3, 3, 3]
    for row, prompt in enumerate(prompts):
        with kv.compress(model, "infinipot-v", 30, chunk=24) as run:
            alone = answer(model, zoo.inputs(model, [prompt]), 3)
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=0, atol=2e-5)
        offset = 8 - prompt.parts[-1].tokens
        for layer, single in zip(kept, run.kept, strict=True):
            found = [head[head >= 0] - offset for head in layer[row]]
            assert torch.equal(torch.stack(found), single[0])


@pytest.mark.parametrize("family", [QWEN, zoo.FAMILIES[-1]])
def test_beams(family: str) -> None:
    """Equal to the stock beams where everything is kept; with a cap, to beams on the same prompt alone in its batch."""
    model = model_of(family)
    prompts = [video_prompt(family), zoo.Prompt([zoo.Text(9, seed=9), zoo.Video(6, *zoo.grid(family), seed=3)])]
    prompts[1] = zoo.Prompt([*prompts[1].parts, zoo.Text(2, seed=4)])
    inputs = zoo.inputs(model, prompts)
    stock = model.generate(**inputs, max_new_tokens=5, num_beams=2)
    with kv.compress(model, "van", 10_000, chunk=CHUNK):
        assert torch.equal(model.generate(**inputs, max_new_tokens=5, num_beams=2), stock)
    with kv.compress(model, "van", 20, chunk=CHUNK):
        together = model.generate(**inputs, max_new_tokens=5, num_beams=2)
        for row, prompt in enumerate(prompts):
            alone = model.generate(**zoo.inputs(model, [prompt]), max_new_tokens=5, num_beams=2)
            assert torch.equal(together[row, -5:], alone[0, -5:])
    assert not torch.equal(together, stock)


def test_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    options = {"do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(0)
    stock = answer(model, inputs, **options)
    torch.manual_seed(0)
    with noted(monkeypatch) as log, kv.compress(model, "van", 10_000, chunk=CHUNK):
        ours = answer(model, inputs, **options)
    assert torch.equal(ours.tokens, stock.tokens)
    assert len(set(map(tuple, stock.tokens.tolist()))) > 1
    assert [len(keys) for keys, _, _ in log.came[0]] == [1, 1, 1, *[3] * 5]
    with kv.compress(model, "van", 20, chunk=CHUNK):
        capped = answer(model, inputs, **options)
        greedy = answer(model, inputs)
    torch.testing.assert_close(capped.logits[:, 0], greedy.logits[:, 0].expand(3, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("budget", [10_000, 20])
def test_a_prompt_that_ends_in_a_visual_token(budget: int, shared: bool) -> None:
    """Possible where no text wraps a video."""
    family = "llava_next_video"
    if family not in zoo.FAMILIES:
        pytest.skip("no such family in this version")
    model = model_of(family, "eager")
    prompt = zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(6, *zoo.grid(family), seed=2)])
    inputs = zoo.inputs(model, [prompt] * (2 if shared else 1))
    stock = answer(model, inputs)
    with kv.compress(model, "van", budget, chunk=CHUNK) as run:
        ours = answer(model, inputs)
    assert run.report.entries == (min(budget, 54),) * 4
    if budget == 10_000:
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
    else:
        with kv.compress(model, "van", budget, chunk=CHUNK):
            asked = answer(model, zoo.inputs(model, [prompt]))
        torch.testing.assert_close(ours.logits[:1], asked.logits, rtol=0, atol=1e-5)


def test_a_second_video_in_a_second_turn() -> None:
    """The cache of the first turn goes on: both videos share the budget, and what was said stays."""
    model = model_of("llava_next_video" if "llava_next_video" in zoo.FAMILIES else QWEN, "eager")
    family = model.config.model_type
    if family == QWEN:
        pytest.skip("no family with plain positions in this version")
    first = zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(4, *zoo.grid(family), seed=2), zoo.Text(5, seed=3)])
    both = zoo.Prompt([*first.parts, zoo.Video(4, *zoo.grid(family), seed=5), zoo.Text(4, seed=6)])
    one, two = zoo.inputs(model, [first]), zoo.inputs(model, [both])
    length = one["input_ids"].shape[1]
    for budget in (10_000, 20):
        cache = DynamicCache(config=model.config)
        with kv.compress(model, "van", budget, chunk=18) as run, torch.no_grad():
            model(**one, past_key_values=cache)
            positions = torch.arange(length, two["input_ids"].shape[1])[None]
            ours = model(
                input_ids=two["input_ids"][:, length:],
                attention_mask=two["attention_mask"],
                pixel_values_videos=two["pixel_values_videos"][1:],
                position_ids=positions,
                past_key_values=cache,
            )
        assert run.report.entries == (min(budget, 72),) * 4
        assert run.report.visual_tokens == 72
        if budget == 10_000:
            with torch.no_grad():
                stock = model(**two).logits[:, length:]
            torch.testing.assert_close(ours.logits, stock, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("budget", "options", "what"),
    [
        (40, {"chunk": 0}, "at least one visual token, got 0"),
        (40, {"chunk": -3}, "at least one visual token, got -3"),
        (40, {"chunk": 2.5}, r"chunk must be a whole number of visual tokens, got 2\.5"),
        (40, {"chunk": "8"}, "chunk must be a whole number of visual tokens, got '8'"),
        ("25%", {"chunk": True}, "chunk must be a whole number of visual tokens, got True"),
        (40, {"chunk": 8, "prefill": "split"}, "chunk=8 does not apply to prefill='split'"),
        (40, {"chunk": 8, "prefill": "whole"}, "chunk=8 does not apply to prefill='whole'"),
        ("25%", {"prefill": "chunked"}, "chunked prefill at 25% needs chunk"),
        (40, {"prefill": "chunked", "stage": "input"}, "stage='input' .* no chunked prefill"),
        (40, {"chunk": 8, "stage": "input"}, "stage='input' .* leave out chunk=8"),
    ],
)
def test_what_cannot_be_asked_for(budget: Any, options: dict[str, Any], what: str) -> None:
    with pytest.raises(kv.BudgetError, match=what):
        kv.compress(model_of(QWEN), "random", budget, **options)


def test_auto_is_chunked_for_caps_and_split_for_ratios() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (40, {}, "chunked"), ("200KiB", {}, "chunked"), ("25%", {}, "split"), ("25%", {"chunk": 12}, "chunked"),
        (40, {"stage": "input"}, "split"), (40, {"prefill": "split"}, "split"),
    ]  # fmt: skip
    for budget, options, wanted in cases:
        with kv.compress(model, "random", budget, **options) as run:
            answer(model, inputs, 1)
        assert run.report.prefill == wanted
    with pytest.raises(kv.UnknownNameError, match="Did you mean 'chunked'"):
        kv.compress(model, "random", 40, prefill="chunk")


def test_hidden_states_need_one_pass() -> None:
    model = model_of(QWEN)
    with (
        kv.compress(model, "random", 20, chunk=12),
        pytest.raises(kv.UnsupportedModelError, match="prefill='whole'"),
    ):
        answer(model, zoo.inputs(model, [video_prompt(QWEN)]), 1, output_hidden_states=True)


def test_a_failed_chunk_leaves_the_model_unchanged() -> None:
    """A method that fails in the second chunk leaves no hook behind, and the next prompt is answered."""

    @dataclass(frozen=True)
    class Failing(Compressor):
        calls: list[int] = field(default_factory=list, compare=False)

        def scores(self, entries: Entries) -> Tensor:
            self.calls.append(1)
            if len(self.calls) == 6:
                raise kv.BudgetError("on purpose")
            return entries.values.norm(dim=-1)

    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    stock = answer(model, inputs)
    method = Failing()
    with kv.compress(model, method, 20, chunk=24) as run:
        with pytest.raises(kv.BudgetError, match="on purpose"):
            answer(model, inputs)
        assert not run.reports
        again = answer(model, inputs)
    with kv.compress(model, "van", 20, chunk=24):
        torch.testing.assert_close(again.logits, answer(model, inputs).logits, rtol=0, atol=1e-5)
    assert torch.equal(answer(model, inputs).logits, stock.logits)
