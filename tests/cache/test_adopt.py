"""Caches that the caller passes: an empty one without a configuration becomes what the model's configuration says."""

from __future__ import annotations

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, video_prompt
from transformers import DynamicCache

import kvpress_video as kv


@pytest.mark.parametrize("budget", ["100%", "30%"])
@pytest.mark.parametrize("family", sorted({"qwen2_5_vl", "gemma3", "qwen3_5"} & {*zoo.FAMILIES}))
def test_cache_without_configuration_gives_the_same_answers(family: str, budget: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    with kv.compress(model, "van", budget) as run:
        wanted = answer(model, inputs)
        found = answer(model, inputs, past_key_values=DynamicCache())
    assert torch.equal(found.logits, wanted.logits)
    made, expected = ([type(layer) for layer in each.output.past_key_values.layers] for each in (found, wanted))
    assert made == expected
    assert run.reports[0] == run.reports[1]


@pytest.mark.skipif("gemma3" not in zoo.FAMILIES, reason="Gemma 3 needs transformers 5")
def test_conversation_goes_on_from_such_a_cache() -> None:
    """The second turn of a conversation that the caller keeps the cache of, on a model with sliding layers."""
    model = model_of("gemma3")
    prompt = video_prompt("gemma3")
    logits = []
    for cache in (None, DynamicCache()):
        with kv.compress(model, "van", "30%"):
            first = answer(model, zoo.inputs(model, [prompt]), past_key_values=cache)
            cache = first.output.past_key_values
            more = zoo.inputs(model, [zoo.Prompt([zoo.Text(9, seed=8)])])
            ids = torch.cat([first.output.sequences, more["input_ids"]], dim=1)
            mask = torch.ones_like(ids)
            logits.append(answer(model, {"input_ids": ids, "attention_mask": mask}, past_key_values=cache).logits)
    assert torch.equal(*logits)


def test_filled_stock_cache_is_refused() -> None:
    model = model_of("gemma3")
    inputs = zoo.inputs(model, [video_prompt("gemma3")])
    cache = answer(model, inputs, past_key_values=DynamicCache()).output.past_key_values
    assert not compressed(cache)
    with kv.compress(model, "van", "30%"), pytest.raises(kv.CacheError, match="filled without compression"):
        model(input_ids=inputs["input_ids"][:, -2:], past_key_values=cache)
