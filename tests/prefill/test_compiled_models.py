"""`torch.compile` and a compressed model: it runs eagerly, with right answers and statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo
from generation import answer, video_prompt

import kvpress_video as kv

FAMILY = "qwen2_5_vl"
BUDGETS = [16, "40KiB"]


@pytest.fixture
def model() -> Iterator[Any]:
    torch._dynamo.reset()
    yield zoo.build(FAMILY, "sdpa")
    torch._dynamo.reset()


def prompts(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return zoo.inputs(model, [video_prompt(FAMILY)]), zoo.inputs(model, [zoo.Prompt([zoo.Text(9, seed=4)])])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_compiled_model_is_patched(model: Any, budget: int | str, when: str) -> None:
    video, text = prompts(model)
    with kv.compress(model, "tar", budget):
        wanted = [answer(model, each).logits for each in (video, text)]
    if when == "before":
        model.compile(backend="eager", fullgraph=True)
    with kv.patch(model, "tar", budget) as handle:
        if when == "after":
            model.compile(backend="eager")
        found = [answer(model, each).logits for each in (video, text)]
    assert all(map(torch.equal, found, wanted))
    visual = int((video["input_ids"] == zoo.VIDEO).sum())
    assert (handle.stats.requests, handle.stats.prefills, handle.stats.visual_tokens) == (2, 1, visual)
    if when == "before":
        assert model._compiled_call_impl is not None


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text model", "vision tower", "decoder layers"])
def test_compiled_parts(model: Any, part: str) -> None:
    video, text = prompts(model)
    with kv.compress(model, "snapkv", 16):
        wanted = [answer(model, each, new=3).logits for each in (video, text)]
    decoder = model.get_decoder()
    for module in {"text model": [decoder], "vision tower": [model.model.visual], "decoder layers": decoder.layers}[
        part
    ]:
        module.compile(backend="eager")
    with kv.compress(model, "snapkv", 16) as run:
        found = [answer(model, each, new=3).logits for each in (video, text)]
    for logits, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(logits, right)
    assert len(run.reports) == 1
    assert {*run.report.entries} == {16}
