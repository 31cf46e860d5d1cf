"""Copies of a cache: to try several questions on one prompt, or to send it to another process."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt

import kvpress_video as kv

FAMILY = zoo.FAMILIES[0]
COPIES: dict[str, Callable[[Any], Any]] = {
    "deep copy": copy.deepcopy,
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
}
PROMPTS: dict[str, list[Any]] = {
    "video": [video_prompt(FAMILY)],
    "text": [zoo.Prompt([zoo.Text(12, seed=1)])],
    "video beside text": [video_prompt(FAMILY), zoo.Prompt([zoo.Text(12, seed=1)])],
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("budget", [20, "50%"])
def test_a_copy_continues_like_the_cache(prompt: str, copied: str, budget: Any) -> None:
    """Also after decoded tokens, whose metadata is written late."""
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, PROMPTS[prompt])
    with kv.compress(model, "van", budget):
        first = answer(model, inputs, new=4).output
        ids = torch.cat([first.sequences, torch.full((len(first.sequences), 3), 60)], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(ids)], dim=1)[:, : ids.shape[1]]
        twin = COPIES[copied](first.past_key_values)
        logits = [
            answer(model, {"input_ids": ids, "attention_mask": mask}, past_key_values=cache).logits
            for cache in (first.past_key_values, twin)
        ]
    assert torch.equal(*logits)
    for one, other in zip(first.past_key_values.layers, twin.layers, strict=True):
        assert one.keys.data_ptr() != other.keys.data_ptr()
        assert torch.equal(one.tags, other.tags)
