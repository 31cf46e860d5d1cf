"""Batches and caches in which equal lengths hide unequal content; and what must be refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import answer, model_of, two_videos, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.budget import Budget
from kvpress_video.compressor.ranking import top
from kvpress_video.compressor.registry import make_method
from kvpress_video.models.cache_argument import CACHE

FAMILY = zoo.FAMILIES[0]
Parts = list[Any]


def check_rows(prompts: list[Parts], method: str, budget: Any, family: str = FAMILY, **options: Any) -> None:
    """Every row of a batch equals itself alone."""
    model = model_of(family)
    made = [zoo.Prompt(parts) for parts in prompts]
    with kv.compress(model, method, budget, **options):
        together = answer(model, zoo.inputs(model, made)).logits
        for row, prompt in enumerate(made):
            alone = answer(model, zoo.inputs(model, [prompt])).logits
            torch.testing.assert_close(together[row], alone[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["tar", "uniform", "infinipot-v", "average-pooling", "novelty"])
def test_videos_of_equal_size_and_different_shape(method: str) -> None:
    wide, tall = zoo.Video(6, 2, 3, seed=1), zoo.Video(3, 3, 4, seed=2)
    check_rows([[zoo.Text(4), wide, zoo.Text(5)], [zoo.Text(4), tall, zoo.Text(5)]], method, "50%")


@pytest.mark.sampled
@pytest.mark.parametrize("options", [{}, {"prefill": "whole"}, {"stage": "input"}, {"positions": "compact"}])
def test_a_row_without_eviction_in_a_batch_with_one_that_evicts(options: dict[str, Any]) -> None:
    small, large = zoo.Video(1, 3, 4, seed=1), zoo.Video(4, 3, 4, seed=2)
    for text in range(30, 46):
        rows: list[Parts] = [[zoo.Text(text, seed=1), small, zoo.Text(5)], [zoo.Text(4), large, zoo.Text(5)]]
        check_rows(rows, "random", 20, **options)


def test_every_length_of_text_beside_a_compressed_video() -> None:
    large = zoo.Video(4, 3, 4, seed=2)
    for text in range(12, 24):
        check_rows([[zoo.Text(4), large, zoo.Text(text)], [zoo.Text(9), large, zoo.Text(5)]], "van", "50%")


@pytest.mark.parametrize("budget", ["50%", 12])
def test_a_row_without_a_video(budget: Any) -> None:
    rows: list[Parts] = [[zoo.Text(20, seed=4)], [zoo.Text(4), zoo.Video(4, 3, 4, seed=2), zoo.Text(5)]]
    check_rows(rows, "van", budget)
    check_rows(rows[::-1], "random", budget, stage="input")


@pytest.mark.skipif(len(zoo.FAMILIES) == 1, reason="Qwen wraps every video, so that no prompt ends in one")
def test_a_row_that_ends_in_its_video() -> None:
    video = zoo.Video(3, *zoo.grid("llava_next_video"), seed=1)
    check_rows([[zoo.Text(9), video], [zoo.Text(4), video, zoo.Text(6)]], "van", "50%", "llava_next_video")


@pytest.mark.parametrize("method", ["tar", "novelty", "infinipot-v"])
def test_images_are_chosen_from_as_alone(method: str) -> None:
    first, second = zoo.Image(3, 4, seed=1), zoo.Image(3, 4, seed=2)
    check_rows([[zoo.Text(3), first, zoo.Text(5)], [zoo.Text(8), second, zoo.Text(9)]], method, "50%")


def test_the_question_sees_nothing_more_when_only_some_layers_evict() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    first = []
    for prefill in ("split", "whole"):
        settings: Any = {"base": "van", "shares": (0.5, 1.1, 1.2, 1.2), "prefill": prefill}
        with kv.compress(model, "per-layer", 60, **settings) as run:
            first.append(answer(model, inputs, new=1).logits)
    assert run.report.entries == (30, 66, 72, 72)
    assert not torch.equal(*first)


@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.5, 1.5), (1.2, 0.8)])
def test_bytes_are_a_cap_for_rows_of_different_text_and_layers_of_different_length(shares: Any) -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY, 12), two_videos(FAMILY), video_prompt(FAMILY, 9)])
    inputs_long = zoo.inputs(model, [zoo.Prompt([zoo.Text(40), *video_prompt(FAMILY, 12).parts]), two_videos(FAMILY)])
    for given in (inputs, inputs_long):
        with kv.compress(model, "per-layer", "240KiB", base="van", shares=shares) as run:
            answer(model, given, new=1)
        assert 0.7 * 240 * 1024 < run.report.bytes <= 240 * 1024


def test_encoded_features_serve_one_prompt_only() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    with kv.compress(model, "van", "50%"):
        answer(model, inputs, new=1)
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        position = torch.arange(text["input_ids"].shape[1]).expand(3, 1, -1)
        with pytest.raises(kv.UnsupportedModelError, match="encoded beforehand"):
            model(**text, position_ids=position)


def test_visual_tokens_cannot_be_cropped() -> None:
    model = model_of(FAMILY)
    with kv.compress(model, "van", "100%"):
        cache = answer(model, zoo.inputs(model, [video_prompt(FAMILY)]), new=2).output.past_key_values
    with pytest.raises(kv.CacheError, match="visual"):
        cache.crop(-20)


def test_a_cache_on_which_a_pass_failed_is_refused() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    cache: Any = None

    def fail(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal cache
        cache = kwargs[CACHE]
        raise RuntimeError("out of memory")

    with kv.compress(model, "van", "50%"):
        handle = model.get_decoder().layers[2].self_attn.register_forward_pre_hook(fail, with_kwargs=True)
        with pytest.raises(RuntimeError, match="out of memory"):
            answer(model, inputs)
        handle.remove()
        with pytest.raises(kv.CacheError, match="halfway"):
            model(input_ids=torch.full((1, 1), 50), past_key_values=cache)


def test_a_cache_is_continued_with_its_settings() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    one = torch.full((1, 1), 50)
    with kv.compress(model, "van", "50%"):
        cache = answer(model, inputs, new=1).output.past_key_values
        with pytest.raises(kv.CacheError, match="1 rows, but 2 came"):
            model(input_ids=one.expand(2, -1), past_key_values=cache)
    with kv.compress(model, "van", "50%", positions="compact"), pytest.raises(kv.CacheError, match="positions"):
        model(input_ids=one, past_key_values=cache)


def test_sliding_layers_are_refused() -> None:
    model = zoo.build(FAMILY)
    model.get_decoder().config.layer_types = ["full_attention", "sliding_attention"] * 2
    with pytest.raises(kv.UnsupportedModelError, match="sliding_attention"):
        kv.compress(model, "van", "50%")


@pytest.mark.parametrize("budget", [None, float("nan"), float("inf"), [6144]])
def test_values_that_are_no_budget(budget: Any) -> None:
    with pytest.raises(kv.BudgetError):
        Budget.parse(budget)


def test_numpy_numbers_are_budgets() -> None:
    assert Budget.parse(np.int64(64)) == Budget(64, "tokens")  # type: ignore[arg-type]
    assert Budget.parse(np.float32(0.5)) == Budget(0.5, "ratio")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["standby:n=four", "standby:n=2.5", "snapkv:window=8.5", "random:seed=x", "random:seed=1,seed=2", "van:pooling=1"],
)
def test_settings_of_the_wrong_type(text: str) -> None:
    with pytest.raises(kv.UnknownNameError):
        make_method(text)


def test_pooling_under_inference_mode_leaves_nothing_behind() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY, 7)])
    with torch.inference_mode(), kv.compress(model, "average-pooling", "30%"):
        answer(model, inputs, new=1)
    with kv.compress(model, "average-pooling", "30%"):
        logits: Tensor = model(**inputs).logits
    logits.sum().backward()
    model.zero_grad()


@pytest.mark.parametrize("method", ["streammem", "snapkv", "van", "novelty"])
def test_gradients_go_through_a_prefill_that_is_looked_at_in_stretches(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small enough stretches that there are several, as at any real size."""
    monkeypatch.setattr("kvpress_video.utils.blocks._LEAST", 1)
    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, zoo.default_prompts("qwen2_5_vl")[:1])
    with kv.compress(model, method, "50%"):
        model(**inputs).logits.square().sum().backward()
    weight = model.get_decoder().layers[0].self_attn.k_proj.weight
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}])
def test_a_budget_of_bytes_holds_for_beams_and_samples_together(options: dict[str, Any]) -> None:
    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, zoo.default_prompts("qwen2_5_vl")[:1])
    with kv.compress(model, "key-norm", "128KiB", chunk=12) as run:
        model.generate(**inputs, max_new_tokens=3, **options)
    assert 0.8 * 128 * 1024 < run.report.bytes <= 128 * 1024


def test_the_top_of_anything() -> None:
    """As a stable sort has it: of equal scores the earlier stays; what is no number stays first."""
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        scores = torch.randint(0, 6, (2, 3, 40), generator=random).float()
        scores[torch.rand(scores.shape, generator=random) < 0.2] = torch.inf
        scores[torch.rand(scores.shape, generator=random) < 0.2] = -torch.inf
        keep = int(torch.randint(0, 41, (), generator=random))
        order = scores.argsort(dim=-1, descending=True, stable=True)
        assert torch.equal(top(scores, keep), order[..., :keep].sort(dim=-1).values)
        assert torch.equal(top(scores.clamp(-9, 9).long(), keep), order[..., :keep].sort(dim=-1).values)
    nothing = torch.tensor([1.0, torch.nan, 2.0, torch.nan, torch.nan])
    assert top(nothing, 2).tolist() == [1, 3]
    assert top(nothing, 4).tolist() == [1, 2, 3, 4]
