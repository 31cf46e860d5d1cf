"""Samples drawn in the middle of training: gradient checkpointing, which switches the stock cache off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from generation import answer, video_prompt

import kvpress_video as kv

FAMILIES = sorted({"qwen2_5_vl", "gemma3", "qwen3_5", "llava_onevision"} & {*zoo.FAMILIES})


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    return zoo.build(request.param, "sdpa")


def flags(model: Any) -> list[bool]:
    return [module.gradient_checkpointing for module in model.modules() if hasattr(module, "gradient_checkpointing")]


@pytest.mark.parametrize("reentrant", [False, True])
def test_answers_are_those_of_evaluation(model: Any, reentrant: bool) -> None:
    inputs = zoo.inputs(model, [video_prompt(model.config.model_type)])
    model.eval()
    with kv.compress(model, "van", "30%") as run:
        wanted = answer(model, inputs).logits
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    before = flags(model)
    with kv.compress(model, "van", "30%") as training:
        found = answer(model, inputs).logits
    assert torch.equal(found, wanted)
    assert training.report == run.report
    assert flags(model) == before
    assert any(before)


def test_pass_that_needs_gradients_says_what_to_do(model: Any) -> None:
    inputs = zoo.inputs(model, [video_prompt(model.config.model_type)])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    before = flags(model)
    with kv.compress(model, "van", "30%"):
        with pytest.raises(kv.CacheError, match=r"no_grad.*model\.eval\(\).*gradient_checkpointing_disable"):
            model(**inputs)
        with torch.no_grad():
            model(**inputs)
    assert flags(model) == before
    model(**inputs).logits.sum().backward()  # training goes on
