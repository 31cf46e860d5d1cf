"""Fewer experts for visual tokens, against the stock model whose routers are edited by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import answer, model_of, two_videos, video_prompt
from sessions import footage, tiny
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import kvpress_video as kv
from kvpress_video.errors import BudgetError, UnsupportedModelError
from kvpress_video.models.loading import load_bundled
from kvpress_video.sweep.benchmark import BENCHMARKS
from kvpress_video.sweep.cells import Cell, Setup, Task
from kvpress_video.sweep.grid.spec import make_grid
from kvpress_video.sweep.results.records import Failure
from kvpress_video.sweep.run.sweep import plan_of
from kvpress_video.sweep.run.worker import Worker

MIXTURES = [family for family in zoo.FAMILIES if family in ("qwen3_vl_moe", "qwen3_5_moe")]
pytestmark = pytest.mark.skipif(not MIXTURES, reason="before transformers 5 every expert computes every token")
every_mixture = pytest.mark.parametrize("family", MIXTURES)


def visual_of(ids: Tensor) -> Tensor:
    return ((ids == zoo.VIDEO) | (ids == zoo.IMAGE)).flatten()


@contextmanager
def edited(model: Any, ids: Tensor, count: int) -> Iterator[None]:
    """Zero the weights of the lower ranks for visual tokens, in a prefill in one pass, and scale the others."""
    visual = visual_of(ids)

    def edit(module: Any, args: tuple, output: Any) -> Any:
        logits, weights, index = output
        if len(weights) != len(visual):
            return output
        fewer = weights.clone()
        fewer[:, count:] = 0
        fewer *= weights.sum(dim=-1, keepdim=True) / fewer.sum(dim=-1, keepdim=True)
        return logits, torch.where(visual[:, None], fewer, weights), index

    handles = [layer.mlp.gate.register_forward_hook(edit) for layer in model.get_decoder().layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(model: Any, layer: int = 0) -> Iterator[list[tuple[Tensor, ...]]]:
    """Note what the experts of a layer are given and return, call by call."""
    experts, calls = model.get_decoder().layers[layer].mlp.experts, []
    stock = experts.forward

    def forward(*given: Tensor) -> Tensor:
        calls.append((*given, stock(*given)))
        return calls[-1][-1]

    experts.forward = forward
    try:
        yield calls
    finally:
        del experts.forward


@every_mixture
@pytest.mark.parametrize("prefill", ["whole", "split"])
def test_answers_equal_the_stock_model_with_edited_routers(family: str, prefill: Any) -> None:
    """With a budget that keeps everything a prompt is read in one pass."""
    model = model_of(family, "eager")
    inputs = zoo.inputs(model, [two_videos(family), video_prompt(family)])
    with kv.compress(model, "random", "100%", prefill=prefill, experts=1):
        ours = answer(model, inputs)
    with edited(model, inputs["input_ids"], 1):
        expected = answer(model, inputs)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=0, atol=1e-5)
    assert (ours.logits - answer(model, inputs).logits).abs().max() > 1e-3


@every_mixture
def test_the_experts_of_text_are_untouched_bit_for_bit(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    visual = visual_of(inputs["input_ids"])
    with watched(model) as calls:
        answer(model, inputs, new=1)
        states, index, weights, output = calls.pop()
        with kv.compress(model, "random", "100%", experts=1):
            answer(model, inputs, new=1)
    text, frames = calls
    for mine, its in zip(text, (states, index, weights, output), strict=True):
        assert torch.equal(mine, its[~visual])
    assert torch.equal(frames[1], index[visual, :1])
    torch.testing.assert_close(frames[2][:, 0], weights[visual].sum(dim=-1))


@every_mixture
@pytest.mark.parametrize(
    "options",
    [{"budget": "50%"}, {"budget": 24, "chunk": 12}, {"budget": "50%", "stage": "input"}, {"budget": "100%"}],
    ids=["ratio", "chunks", "before prefill", "everything"],
)
def test_visual_tokens_are_computed_once_by_one_expert(family: str, options: dict[str, Any]) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    with watched(model) as calls, kv.compress(model, "random", **options, experts=1) as run:
        answer(model, inputs, new=1)
    tokens = run.report.visual_tokens if options.get("stage") != "input" else run.report.entries[0]
    assert sum(len(index) for _, index, *_ in calls if index.shape[1] == 1) == tokens


def test_tokens_that_skip_a_layer_reach_none_of_its_experts() -> None:
    model = model_of("qwen3_vl_moe")
    inputs = zoo.inputs(model, [video_prompt("qwen3_vl_moe")])
    with watched(model, 1) as calls, kv.compress(model, "mod:keep=0.5", "50%", prefill="whole", experts=1) as run:
        answer(model, inputs, new=1)
    assert [index.shape[1] for _, index, *_ in calls] == [2, 1]
    assert len(calls[1][1]) == -(-run.report.visual_tokens // 2)


def test_operations_are_saved() -> None:
    """Each expert that does not run saves three products of a state with a matrix."""
    model = zoo.build("qwen3_vl_moe")
    model.config.text_config._experts_implementation = "eager"  # of all, the one whose operations are counted
    text, inputs = model.config.text_config, zoo.inputs(model, [video_prompt("qwen3_vl_moe")])
    operations = []
    for experts in (2, 1):
        with FlopCounterMode(display=False) as counter, kv.compress(model, "random", "100%", experts=experts) as run:
            answer(model, inputs, new=1)
        operations.append(counter.get_total_flops())
    each = 6 * text.hidden_size * text.moe_intermediate_size
    assert operations[0] - operations[1] == run.report.visual_tokens * text.num_hidden_layers * each


def test_all_experts_are_the_stock_model() -> None:
    model = model_of("qwen3_vl_moe", "eager")
    inputs = zoo.inputs(model, [video_prompt("qwen3_vl_moe")])
    with kv.compress(model, "random", "100%", experts=2):
        ours = answer(model, inputs)
    torch.testing.assert_close(ours.logits, answer(model, inputs).logits, rtol=0, atol=1e-5)
    assert "forward" not in vars(model.get_decoder().layers[0].mlp.experts)


def test_errors() -> None:
    with pytest.raises(UnsupportedModelError, match=r"is dense.*Leave experts out"):
        kv.compress(model_of("qwen2_5_vl"), "random", "50%", experts=1)
    for wrong in (0, 3, 1.5):
        with pytest.raises(BudgetError, match="2 experts process a visual token, from 1, got"):
            kv.compress(model_of("qwen3_vl_moe"), "random", "50%", experts=wrong)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="encodes the newest frames anew, with all experts"):
        kv.compress(model_of("qwen3_vl_moe"), "fresh", 48, experts=1)


@every_mixture
def test_a_session_reads_frames_with_fewer_experts(family: str, tmp_path: Path) -> None:
    session = tiny("random", 24, family, chunk=12, experts=1)
    with watched(session.model) as calls:
        session.push(footage(16))
        session.ask("What?", max_new_tokens=2)
    assert session.stats.visual_tokens == sum(len(index) for _, index, *_ in calls if index.shape[1] == 1)
    assert any(index.shape[1] == 2 for _, index, *_ in calls)
    session.save(tmp_path / "session")
    loaded = kv.VideoSession.load(tmp_path / "session", session.model, session.processor)
    with watched(session.model) as calls:
        loaded.push(footage(8, seed=1))
        loaded.flush()
    assert any(index.shape[1] == 1 for _, index, *_ in calls)


def test_a_session_refuses_experts_that_a_model_lacks() -> None:
    model, processor = load_bundled("qwen3_vl", device="cpu")
    with pytest.raises(UnsupportedModelError, match=r"is dense.*Leave experts out"):
        kv.VideoSession(model, processor, "random", 64, experts=1)
    with pytest.raises(BudgetError, match="2 experts process a visual token, from 1, got 3"):
        tiny("random", 24, "qwen3_vl_moe", experts=3)


def test_a_patched_model_uses_fewer_experts() -> None:
    model = model_of("qwen3_vl_moe")
    inputs = zoo.inputs(model, [video_prompt("qwen3_vl_moe")])
    with kv.patch(model, "random", "50%", experts=1) as handle, watched(model) as calls:
        model.generate(**inputs, max_new_tokens=1)
    assert handle.stats.visual_tokens == sum(len(index) for _, index, *_ in calls if index.shape[1] == 1)


def test_a_sweep_asks_for_the_experts_of_its_grid(tmp_path: Path) -> None:
    """The bundled model is dense, and says so."""
    setup = make_grid(methods="random", budgets="50%", experts=1).setup
    assert plan_of(setup, [], {})["setup"] == {**plan_of(Setup(), [], {})["setup"], "experts": 1}
    [clip] = BENCHMARKS.make("world:count=1,frames=4").clips(0, tmp_path)
    task = Task("bundled", "world", 0, clip, (Cell("random", "50%"),))
    [failed] = Worker(setup).run(task)
    assert isinstance(failed, Failure)
    assert "is dense" in failed.error
