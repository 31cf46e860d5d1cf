"""The method that keeps everything, in a loop over methods with one budget."""

from __future__ import annotations

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt

import kvpress_video as kv


@pytest.mark.parametrize("stage", ["cache", "input"])
@pytest.mark.parametrize("budget", ["25%", 16, "20KiB"])
def test_budget_is_ignored_and_the_report_says_so(budget: str | int, stage: kv.compression.Stage) -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    stock = answer(model, inputs)
    with kv.compress(model, "full", budget, stage=stage) as run:
        kept = answer(model, inputs)
    assert torch.equal(kept.logits, stock.logits)
    assert run.report.asked == str(kv.Budget.parse(budget))
    assert run.report.ratio == 1
    assert {*run.report.entries} == {run.report.visual_tokens}


@pytest.mark.parametrize("budget", [16, "20KiB"])
def test_a_chunked_prefill_without_a_chunk_takes_that_of_the_budget(budget: str | int) -> None:
    """As for every other method in the loop; the budget of everything, a ratio, has none."""
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    with kv.compress(model, "full", budget, prefill="chunked") as run:
        kept = answer(model, inputs)
    assert torch.allclose(kept.logits, answer(model, inputs).logits, atol=1e-5)
    assert (run.report.prefill, run.report.ratio) == ("chunked", 1)


def test_patch_with_it_serves_the_stock_answers() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    stock = answer(model, inputs)
    with kv.patch(model, "full", 16) as handle:
        assert torch.equal(answer(model, inputs).logits, stock.logits)
    assert handle.stats.report is not None
    assert handle.stats.report.ratio == 1
