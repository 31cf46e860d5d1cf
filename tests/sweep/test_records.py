"""Records of a sweep: what their columns hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import zoo
from generation import answer, model_of, video_prompt
from sweep_rows import MEASURED

import kvpress_video as kv
from kvpress_video.models import adapter_for
from kvpress_video.sweep.cells import Cell, Setup
from kvpress_video.sweep.dry_run.cost import PromptCost, PromptSize
from kvpress_video.sweep.results.records import Measured

FAMILY = "qwen3_vl"


@pytest.mark.parametrize("labels", ["spread", "drop", "keep"])
@pytest.mark.parametrize("budget", ["60", "30%"])
def test_of_a_family_with_labels(labels: Any, budget: str) -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY, 20)])
    with kv.compress(model, "van", budget, labels=labels) as run:
        answer(model, inputs, new=1)
    measured = replace(MEASURED, report=replace(run.report, asked=budget))
    assert Measured.from_columns(Cell("van", budget), measured.as_dict()) == measured
    assert run.report.logical_length == inputs["input_ids"].shape[1]

    with kv.compress(model, "van", "100%") as run:
        answer(model, inputs, new=1)
    whole = run.report
    size = PromptSize(20, whole.logical_length, whole.visual_tokens, common_suffix=0, labels=whole.label_tokens)
    cost = PromptCost(adapter_for(model), size, Setup(labels=labels))
    assert cost.cache_bytes(budget) == measured.report.bytes
