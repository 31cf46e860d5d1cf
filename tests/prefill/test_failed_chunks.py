"""A prompt that fails on its way: the cache says so, the model is free of hooks, and the next prompt is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from failures import at_call, fail, interrupt
from generation import answer, compressed, model_of, video_prompt
from torch import nn
from transformers import DynamicCache

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.prefill import prompt_prefill
from kvpress_video.prefill.chunking import Chunk
from kvpress_video.prefill.pass_reader import PassReader

FAMILY, BUDGET = "qwen2_5_vl", 24
ONE = torch.full((1, 1), 50)


def hooks_of(model: nn.Module) -> dict[str, Any]:
    """Attributes and hooks of every module."""
    return {
        name: ({*vars(module)}, [len(value) for key, value in vars(module).items() if key.endswith("_hooks")])
        for name, module in model.named_modules()
    }


@pytest.mark.sampled
@pytest.mark.parametrize("what", [fail, interrupt])
@pytest.mark.parametrize("budget", [BUDGET, "40%"])
@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(PassReader, "rewrite", 2), (Chunk, "put", 1), (Chunk, "take", 4), (CompressedLayer, "keep", 3),
     (CompressedLayer, "begin_pass", 7), (nn.Module, "register_forward_hook", 2)],
)  # fmt: skip
def test_a_prompt_that_fails_between_two_chunks(
    owner: Any, name: str, number: int, budget: Any, what: Callable[[], None]
) -> None:
    model, cache = model_of(FAMILY), DynamicCache()
    inputs, before = zoo.inputs(model, [video_prompt(FAMILY, 10)]), hooks_of(model)
    with kv.compress(model, "van", budget) as run:
        wanted = answer(model, inputs).logits
        with at_call(number, owner, name, what), pytest.raises((OSError, KeyboardInterrupt)):
            answer(model, inputs, past_key_values=cache)
        assert all(layer.broken for layer in compressed(cache))
        with pytest.raises(kv.CacheError, match="failed halfway"):
            model(input_ids=ONE, past_key_values=cache)
        assert torch.equal(answer(model, inputs).logits, wanted)
    assert len(run.reports) == 2
    assert hooks_of(model) == before


@pytest.mark.parametrize("name", ["_check_outputs", "_in_chunks"])
def test_a_prompt_that_fails_before_its_first_chunk_leaves_the_cache_unchanged(name: str) -> None:
    model, cache = model_of(FAMILY), DynamicCache()
    inputs = zoo.inputs(model, [video_prompt(FAMILY, 10)])
    with kv.compress(model, "van", BUDGET):
        wanted = answer(model, inputs).logits
        with at_call(1, prompt_prefill.PromptPrefill, name, fail), pytest.raises(OSError, match="lost"):
            answer(model, inputs, past_key_values=cache)
        assert not any(layer.broken for layer in compressed(cache))
        assert torch.equal(answer(model, inputs, past_key_values=cache).logits, wanted)


def test_rows_that_cannot_be_repeated_break_the_cache() -> None:
    """Rows that share their video share its chunks; then each gets a copy of the first."""
    model, cache = model_of(FAMILY), DynamicCache()
    inputs = zoo.inputs(model, [video_prompt(FAMILY, 10)] * 2)
    with kv.compress(model, "van", BUDGET):
        with at_call(2, CompressedLayer, "repeat_first_row", fail), pytest.raises(OSError, match="lost"):
            answer(model, inputs, past_key_values=cache)
        assert all(layer.broken for layer in compressed(cache))


@pytest.mark.parametrize("owner", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_while_hooks_are_put_on(owner: str, number: int) -> None:
    """Of a compression or of a pass: none is left behind, not even one that was just put on."""
    model = model_of(FAMILY)
    inputs, before = zoo.inputs(model, zoo.default_prompts(FAMILY)), hooks_of(model)
    with at_call(number, nn.Module, owner, interrupt, after=True), pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with kv.compress(model, "standby", BUDGET, n=4):
            answer(model, inputs)
    assert hooks_of(model) == before
