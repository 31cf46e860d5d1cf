"""Compressed generation against references that do not compress: the stock model, and the stock model with a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, after_frames, answer, model_of, two_videos, video_prompt
from pairs import pairs
from reference_masks import blinded_answer, evicted
from torch import Tensor

import kvpress_video as kv

ATTENTIONS = ("eager", "sdpa")
BUDGET = "50%"


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("stage", ["cache", "input"])
def test_a_budget_that_holds_everything_changes_nothing(
    family: str, attention: str, stage: Any, positions: Any
) -> None:
    if stage == "input" and family not in zoo.DROPPING:
        pytest.skip("its tokens cannot be dropped before prefill")
    model = model_of(family, attention)
    inputs = zoo.inputs(model, zoo.default_prompts(family))
    stock = answer(model, inputs)
    for budget in ("100%", 10_000):
        with kv.compress(model, "average-pooling", budget, stage=stage, positions=positions) as run:
            ours = answer(model, inputs)
        assert torch.equal(ours.tokens, stock.tokens)
        assert run.report.ratio == 1
        if attention == "eager":
            assert torch.equal(ours.logits, stock.logits)
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "family", "prefill"),
    pairs([method for method in METHODS if method != "average-pooling"], zoo.FAMILIES, ["split", "whole"]),
)
def test_compressed_answers_equal_the_stock_model_with_evicted_entries_masked(
    family: str, method: str, prefill: Any
) -> None:
    model = model_of(family, "eager")
    prompt = two_videos(family)
    inputs = zoo.inputs(model, [prompt])
    length = inputs["input_ids"].shape[1]
    with kv.compress(model, method, BUDGET, prefill=prefill, **SETTINGS.get(method, {})) as run:
        ours = answer(model, inputs)
    hidden = [evicted(kept[0], length) for kept in run.kept]
    assert all(layer.any() for layer in hidden)
    blind_from = after_frames(family, prompt, inputs["input_ids"][0]) if prefill == "split" else length
    masked = blinded_answer(model, inputs, hidden, ours.tokens, blind_from)
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)
    stock = answer(model, inputs)
    assert (ours.logits[:, 1:] - stock.logits[:, 1:]).abs().max() > 1e-3
    assert (prefill == "whole") == torch.equal(ours.logits[:, 0], stock.logits[:, 0])


@pytest.mark.sampled
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_left_padded_batch_equals_its_rows_alone(method: str, attention: str, positions: Any) -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family, attention)
    prompts = zoo.default_prompts(family)
    _check_rows(model, prompts, method, positions=positions)


@pytest.mark.parametrize("family", zoo.FAMILIES[1:])
@pytest.mark.parametrize("method", ["infinipot-v", "average-pooling", "snapkv", "standby-novelty"])
def test_a_left_padded_batch_equals_its_rows_alone_in_every_family(method: str, family: str) -> None:
    model = model_of(family, "sdpa")
    size = zoo.grid(family)
    longer = zoo.Prompt([zoo.Text(9, seed=9), zoo.Video(6, *size, seed=12), zoo.Text(3, seed=13)])
    _check_rows(model, [video_prompt(family), longer], method)


@pytest.mark.parametrize("family", zoo.DROPPING)
@pytest.mark.parametrize("method", ["average-pooling", "random", "standby"])
def test_a_left_padded_batch_equals_its_rows_alone_before_prefill(method: str, family: str) -> None:
    model = model_of(family, "sdpa")
    size = zoo.grid(family)
    longer = zoo.Prompt([zoo.Text(9, seed=9), zoo.Video(6, *size, seed=12), zoo.Text(3, seed=13)])
    _check_rows(model, [video_prompt(family), longer], method, stage="input")


def _check_rows(model: Any, prompts: list[zoo.Prompt], method: str, **options: Any) -> None:
    options |= SETTINGS.get(method, {})
    with kv.compress(model, method, BUDGET, **options) as run:
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    assert len(run.reports) == 1 + len(prompts)
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)
        assert torch.equal(together.tokens[row], single.tokens[0])


@pytest.mark.parametrize("family", zoo.DROPPING)
@pytest.mark.parametrize("method", ["random", "standby"])
def test_dropping_before_prefill_equals_the_stock_text_model_on_what_is_left(family: str, method: str) -> None:
    """The reference rebuilds embeddings, positions and deepstack features by hand and runs the stock text model."""
    model = model_of(family, "eager")
    inputs = zoo.inputs(model, [video_prompt(family)])
    given = _arguments(model.get_decoder(), model, inputs)
    with kv.compress(model, method, BUDGET, stage="input", **SETTINGS.get(method, {})) as run:
        reached = _arguments(model.get_decoder().layers[0], model, inputs)
        ours = answer(model, inputs, new=1)
    left = run.kept[0][0, 0].long()
    assert reached["hidden_states"].shape[1] == len(left) < given["inputs_embeds"].shape[1]
    expected = {"inputs_embeds": given["inputs_embeds"][:, left], "use_cache": True}
    position = (
        given["position_ids"]
        if given.get("position_ids") is not None
        else torch.arange(given["inputs_embeds"].shape[1])[None]
    )
    expected["position_ids"] = position[..., left][-3:] if position.ndim == 3 else position[..., left]
    if given.get("deepstack_visual_embeds") is not None:
        where = given["visual_pos_masks"]
        ordinal = where[0].cumsum(0) - 1
        chosen = ordinal[left][where[0, left]]
        expected["visual_pos_masks"] = where[:, left]
        expected["deepstack_visual_embeds"] = [level[chosen] for level in given["deepstack_visual_embeds"]]
    with torch.no_grad():
        from transformers import DynamicCache

        states = model.get_decoder()(**expected, past_key_values=DynamicCache(config=model.config)).last_hidden_state
        logits = model.get_output_embeddings()(states[:, -1])
    torch.testing.assert_close(ours.logits[:, 0], logits, rtol=0, atol=1e-5)


@torch.no_grad()
def _arguments(module: Any, model: Any, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Input of a module in the prefill."""
    seen: dict[str, Any] = {}

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs, hidden_states=args[0] if args else kwargs.get("hidden_states"))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        answer(model, inputs, new=1)
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_questions_about_one_video_share_its_prefill(family: str) -> None:
    model = model_of(family, "sdpa")
    video = zoo.Video(6, *zoo.grid(family), seed=2)
    questions = [zoo.Text(length, seed=length) for length in (8, 3, 5)]
    prompts = [zoo.Prompt([zoo.Text(4, seed=1), video, question]) for question in questions]
    batches: list[tuple[int, int]] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        batches.append(tuple((args[0] if args else kwargs["hidden_states"]).shape[:2]))

    handle = model.get_decoder().layers[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        with kv.compress(model, "van", "30%") as run:
            together = answer(model, zoo.inputs(model, prompts), new=2)
            kept = run.kept
    finally:
        handle.remove()
    assert [rows for rows, _ in batches] == [1, 3, 3]
    for row, prompt in enumerate(prompts):
        inputs = zoo.inputs(model, [prompt])
        with kv.compress(model, "van", "30%") as run:
            alone = answer(model, inputs, new=2)
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=0, atol=2e-5)
        padding = 8 - questions[row].tokens
        for layer, single in zip(kept, run.kept, strict=True):
            found = [head[head >= 0] - padding for head in layer[row]]
            assert torch.equal(torch.stack(found), single[0])
