"""Videos of which the processor leaves tokens out: what is there keeps its own frame, row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, compressed, model_of
from reference_masks import blinded_answer, evicted
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Grid, Kind, Tags, is_visual
from kvpress_video.models import adapter_for

FAMILY = "video_llama_3"
WHOLE = ("memory-bank",)  # methods that read what is cached as whole frames
pytestmark = pytest.mark.skipif(FAMILY not in zoo.FAMILIES, reason="no such family in this version")


def thin(frames: int, seed: int, size: tuple[int, int] = (3, 4)) -> zoo.Video:
    return zoo.Video(frames, *size, seed=seed, thin=True)


def one() -> zoo.Prompt:
    return zoo.Prompt([zoo.Text(4, seed=1), thin(6, seed=2), zoo.Text(8, seed=3)])


def several() -> zoo.Prompt:
    """Between two thin videos an image, and a whole video."""
    image, whole = zoo.Image(2, 3, seed=5), zoo.Video(2, 3, 4, seed=6)
    return zoo.Prompt(
        [zoo.Text(2, seed=4), thin(3, seed=7, size=(4, 3)), image, whole, thin(4, seed=8), zoo.Text(6, seed=9)]
    )


def tokens_of(prompt: zoo.Prompt) -> int:
    return len(zoo.expected_layout(FAMILY, prompt))


@torch.no_grad()
def test_every_token_that_is_there_is_tagged_with_what_it_shows() -> None:
    model, prompts = model_of(FAMILY), [several(), one()]
    inputs = zoo.inputs(model, prompts)
    with kv.compress(model, "standby", "100%", n=4) as run:
        layer = compressed(model(**inputs, use_cache=True).past_key_values)[0]
    kinds = {"image": Kind.IMAGE, "video": Kind.VIDEO}
    for row, prompt in enumerate(prompts):
        padding = int((inputs["attention_mask"][row] == 0).sum())
        tags = layer.tags[row, 0]
        assert tags[is_visual(tags[:, Tags.KIND])].tolist() == [
            [padding + slot.token, kinds[slot.kind], slot.segment, slot.frame, slot.row, slot.col]
            for slot in zoo.expected_layout(FAMILY, prompt)
        ]
    assert run.report.visual_tokens == max(map(tokens_of, prompts)) == 94 < 3 * 12 + 6 + 24 + 4 * 12
    assert layer.rows[0].seen == layer.rows[0].held == {0: 28, 1: 6, 2: 24, 3: 36}
    assert layer.rows[0].grids == {0: Grid(3, 4, 3), 1: Grid(1, 2, 3), 2: Grid(2, 3, 4), 3: Grid(4, 3, 4)}


@torch.no_grad()
def test_importance_goes_with_its_token() -> None:
    """As in the same video with all of its tokens."""
    model, (first, _, last) = model_of(FAMILY), one().parts
    found: list[dict[tuple[int, ...], float]] = []
    for part in (thin(6, seed=2), zoo.Video(6, 3, 4, seed=2)):
        with kv.compress(model, "standby", "100%", n=4):
            cache = model(**zoo.inputs(model, [zoo.Prompt([first, part, last])]), use_cache=True).past_key_values
        layer = compressed(cache)[0]
        visual = is_visual(layer.tags[0, 0, :, Tags.KIND])
        places = map(tuple, layer.tags[0, 0, visual, Tags.FRAME :].tolist())
        found.append(dict(zip(places, layer.places[0, 0, visual, 3].tolist(), strict=True)))
    some, every = found
    assert len(some) < len(every) == 72
    assert some == pytest.approx({place: every[place] for place in some}, abs=1e-7)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "options", [{"budget": "100%"}, {"budget": 10_000, "chunk": 26}, {"budget": "100%", "stage": "input"}]
)
def test_a_budget_that_holds_everything_changes_nothing(attention: str, options: dict[str, Any]) -> None:
    model = model_of(FAMILY, attention)
    inputs = zoo.inputs(model, [several(), one()])
    stock = answer(model, inputs)
    with kv.compress(model, "average-pooling", **options) as run:
        ours = answer(model, inputs)
    assert run.report.ratio == 1
    assert torch.equal(ours.tokens, stock.tokens)
    torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
    if attention == "eager" and "chunk" not in options:
        assert torch.equal(ours.logits, stock.logits)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("average-pooling", *WHOLE)])
def test_answers_equal_the_stock_model_with_evicted_entries_masked(method: str) -> None:
    model = model_of(FAMILY, "eager")
    prompt = zoo.Prompt([*one().parts, thin(4, seed=8), zoo.Text(6, seed=9)])
    inputs = zoo.inputs(model, [prompt])
    length = inputs["input_ids"].shape[1]
    with kv.compress(model, method, "50%", **SETTINGS.get(method, {})) as run:
        ours = answer(model, inputs)
    assert run.report.visual_tokens == tokens_of(prompt)
    held, seen = sum(run.report.entries) + sum(run.report.label_entries), tokens_of(prompt) + run.report.label_tokens
    assert held == pytest.approx(len(run.kept) * seen / 2, abs=len(run.kept))
    hidden = [evicted(kept[0], length) for kept in run.kept]
    after_video = zoo.expected_layout(FAMILY, prompt)[-1].token + 1
    torch.testing.assert_close(
        ours.logits, blinded_answer(model, inputs, hidden, ours.tokens, after_video), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("method", "budget"),
    [
        *((method, "40%") for method in ("infinipot-v", "average-pooling", "snapkv", "standby-novelty", "uniform")),
        *((method, 20) for method in ("van", "average-pooling", "snapkv", "standby")),
    ],
)
def test_a_left_padded_batch_equals_its_rows_alone(method: str, budget: Any) -> None:
    model, prompts = model_of(FAMILY), [several(), one()]
    with kv.compress(model, method, budget, **SETTINGS.get(method, {})):
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", WHOLE)
def test_a_method_of_whole_frames_refuses(method: str) -> None:
    model = model_of(FAMILY)
    with kv.compress(model, method, "50%"), pytest.raises(kv.BudgetError, match="whole frames"):
        answer(model, zoo.inputs(model, [one()]))


def test_questions_on_one_video_share_its_prefill_and_a_shared_prefill_is_found_again() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [one()] * 2)
    with kv.compress(model, "van", "40%"):
        alone = answer(model, inputs)
    once = kv.SharedPrefill()
    for _ in range(2):
        with kv.compress(model, "van", "40%", shared=once):
            assert torch.equal(answer(model, inputs).logits, alone.logits)
    assert once.reused == 1


def test_frames_are_encoded_in_groups_whatever_is_left_out_of_them() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [several()])
    stock, seen = answer(model, inputs), []
    handle = model.model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(int(kwargs["grid_thw"].prod(-1).sum()) // zoo.MERGE**2),
        with_kwargs=True,
    )
    try:
        with kv.compress(model, "standby", 10_000, n=4, chunk=24):
            torch.testing.assert_close(answer(model, inputs).logits, stock.logits, rtol=0, atol=1e-5)
    finally:
        handle.remove()
    assert sum(seen) == 3 * 12 + 6 + 24 + 4 * 12
    assert max(seen) == 24


def test_a_mask_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `generate()` hands on with beams in transformers 5.23, where the stock model cannot use it either."""
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [one()])
    mask = inputs["video_compression_mask"].repeat_interleave(2)
    own = adapter_for(model).shown
    monkeypatch.setattr(type(adapter_for(model)), "shown", lambda self, arguments: {Kind.VIDEO: mask})
    assert own({}) == {}
    with kv.compress(model, "van", "50%"), pytest.raises(kv.UnsupportedModelError, match="use_token_compression=False"):
        answer(model, inputs)


def test_the_processor_leaves_out_what_does_not_change() -> None:
    """Its own mask, of a video whose left half stands still: the tags say which half is there."""
    processing = pytest.importorskip("transformers.models.video_llama_3.video_processing_video_llama_3")
    processor = processing.VideoLlama3VideoProcessor(patch_size=zoo.PATCH, merge_size=zoo.MERGE, do_resize=False)
    side = zoo.PATCH * zoo.MERGE
    frames = np.random.default_rng(0).integers(0, 255, (4, 3 * side, 4 * side, 3), dtype=np.uint8)
    frames[:, :, : 2 * side] = frames[0, :, : 2 * side]
    given = processor(videos=[frames], do_sample_frames=False, return_metadata=False, return_tensors="pt")
    assert given["video_grid_thw"].tolist() == [[4, 6, 8]]
    mask = given["video_compression_mask"].reshape(4, 3, 4)
    assert mask[0].all()
    assert mask[1:, :, 2:].all()
    assert not mask[1:, :, :2].any()
    model, ids = model_of(FAMILY), [zoo.BOS]
    for frame in range(4):
        ids += [zoo.WORDS.start, *[zoo.VIDEO] * int(mask[frame].sum())]
    given = {name: given[name] for name in given if isinstance(given[name], Tensor)}
    inputs = {"input_ids": torch.tensor([[*ids, zoo.WORDS.start]]), **given}
    with kv.compress(model, "van", "50%") as run:
        layer = compressed(answer(model, inputs, new=1).output.past_key_values)[0]
    assert run.report.visual_tokens == 12 + 3 * 6
    visual = layer.tags[0, 0][layer.tags[0, 0, :, Tags.KIND] == Kind.VIDEO]
    assert len(visual) + max(run.report.label_entries) == (30 + run.report.label_tokens + 1) // 2
    later = visual[visual[:, Tags.FRAME] > 0]
    assert len(later)
    assert (later[:, Tags.COLUMN] >= 2).all()
