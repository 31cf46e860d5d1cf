"""Visual tokens that skip layers, against the stock model whose layers are given their own input back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, two_videos, video_prompt
from reference_masks import skipping_answer
from torch import Tensor

import kvpress_video as kv
from kvpress_video.attention import layer_compressor
from kvpress_video.compressor import Routing
from kvpress_video.compressor.registry import make_method
from kvpress_video.compressor.routing import checked_routing
from kvpress_video.contract.on_models import on_model
from kvpress_video.errors import BudgetError, MethodError
from kvpress_video.models import adapter_for


def largest(model: Any, inputs: dict[str, Tensor], method: str, **options: Any) -> Any:
    """Run a method with the largest budget, at which layers evict nothing of what runs through them."""
    layers = len(adapter_for(model).attentions)
    routing = checked_routing(make_method(method), layers)
    assert routing is not None
    with kv.compress(model, method, float(sum(routing.shares) / layers), labels="keep", **options) as run:
        ours = answer(model, inputs)
    return run, ours


@pytest.mark.parametrize("prefill", ["split", "whole"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_answers_equal_the_stock_model_whose_layers_are_skipped(family: str, prefill: Any) -> None:
    model = model_of(family, "eager")
    if len(adapter_for(model).attentions) < 2:
        with pytest.raises(BudgetError, match="fits no model of 1 layers"):
            kv.compress(model, "mod", "50%")
        return
    inputs = zoo.inputs(model, [two_videos(family)])
    run, ours = largest(model, inputs, "mod:base=recent,keep=0.5,router=random", prefill=prefill)
    seen = run.report.visual_tokens
    assert run.report.entries[0] == seen
    assert seen // 2 <= run.report.entries[1] < 0.6 * seen
    assert all(torch.equal(kept[0], kept[0, :1].expand_as(kept[0])) for kept in run.kept)
    reference = skipping_answer(model, inputs, [kept[0] for kept in run.kept], ours.tokens)
    torch.testing.assert_close(ours.logits, reference, rtol=0, atol=1e-5)
    assert (ours.logits - answer(model, inputs).logits).abs().max() > 1e-3


@pytest.mark.parametrize("layers", ["all", "deep", (2,)])
@pytest.mark.parametrize("router", ["van", "snapkv"])
def test_layers_in_a_row_are_skipped_by_the_same_tokens(layers: Any, router: str) -> None:
    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl")])
    method = make_method("mod", base="recent", keep=0.5, layers=layers, router=router)
    shares = [share == 1 for share in method.routing(4).shares]
    with kv.compress(model, method, (sum(shares) + (4 - sum(shares)) / 2) / 4) as run:
        ours = answer(model, inputs)
    routed = [kept for kept, whole in zip(run.kept, shares, strict=True) if not whole]
    assert all(torch.equal(kept, routed[0]) for kept in routed)
    reference = skipping_answer(model, inputs, [kept[0] for kept in run.kept], ours.tokens)
    torch.testing.assert_close(ours.logits, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_chunks_hold_the_budget_over_all_layers(positions: Any) -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 8)])
    with kv.compress(model, "mod:keep=0.5", 18, chunk=12, positions=positions) as run:
        cache = answer(model, inputs, new=1).output.past_key_values
    assert run.report.entries == (24, 12, 24, 12)
    text = run.report.text_entries
    assert [layer.keys.shape[2] for layer in compressed(cache)] == [held + text for held in run.report.entries]
    assert run.report.bytes == sum(layer.bytes for layer in compressed(cache))


def test_rows_of_a_padded_batch_equal_each_alone() -> None:
    model = model_of("qwen2_5_vl", "eager")
    prompts = [two_videos("qwen2_5_vl"), video_prompt("qwen2_5_vl")]
    method, together = "mod:keep=0.5,router=van", zoo.inputs(model, prompts)
    with kv.compress(model, method, "60%"):
        both = answer(model, together)
    for row, prompt in enumerate(prompts):
        with kv.compress(model, method, "60%"):
            alone = answer(model, zoo.inputs(model, [prompt]))
        torch.testing.assert_close(both.logits[row], alone.logits[0], rtol=0, atol=1e-5)


def test_a_share_of_one_is_the_stock_model() -> None:
    model = model_of("qwen2_5_vl", "eager")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl")])
    with kv.compress(model, "mod:keep=1", "100%"):
        ours = answer(model, inputs)
    assert torch.equal(ours.logits, answer(model, inputs).logits)


def test_queries_are_taken_once_in_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what a layer holds decides which tokens skip the next."""
    model, taken = model_of("qwen2_5_vl"), []
    real = layer_compressor.last_queries

    def counted(attention: Any, *given: Any) -> Any:
        taken.append(attention.layer_idx)
        return real(attention, *given)

    monkeypatch.setattr(layer_compressor, "last_queries", counted)
    with kv.compress(model, "mod:keep=0.5,router=snapkv,base=recent", "50%", prefill="whole"):
        answer(model, zoo.inputs(model, [video_prompt("qwen2_5_vl")]), new=1)
    assert taken == [0, 1, 2, 3]


def test_skipped_tokens_are_not_computed() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 10)])
    seen: list[int] = []
    layers = model.get_decoder().layers
    handles = [layer.mlp.register_forward_hook(lambda *of: seen.append(of[1][0].shape[1])) for layer in layers]
    with kv.compress(model, "mod:keep=0.2", "60%", prefill="whole") as run:
        answer(model, inputs, new=1)
    for handle in handles:
        handle.remove()
    length, tokens = inputs["input_ids"].shape[1], run.report.visual_tokens
    assert seen[:4] == [length, length - tokens + tokens // 5] * 2


def test_bytes_are_never_exceeded() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [two_videos("qwen2_5_vl"), video_prompt("qwen2_5_vl")])
    with kv.compress(model, "mod:keep=0.5", "150KiB") as run:
        answer(model, inputs)
    assert 120 * 1024 < run.report.peak_bytes <= 150 * 1024


def test_the_rules_of_the_contract_on_a_model() -> None:
    method = make_method("mod")
    for trial in on_model("qwen2_5_vl"):
        outcome = trial.outcome(method)
        assert not trial.applies(method) or not outcome.wrong
        assert outcome.refusals.keys() <= {"100%"}


def test_more_than_the_largest_budget_is_an_error() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl")])
    with pytest.raises(BudgetError, match=r"ask for at most 59\.7%"), kv.compress(model, "mod:keep=0.2", "80%"):
        answer(model, inputs)


class Wrong(kv.Compressor):
    def __init__(self, *shares: float) -> None:
        object.__setattr__(self, "shares", shares)

    def routing(self, layers: int) -> Routing:
        return Routing(self.shares, make_method("van"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shares", "message"),
    [((1, 0.5), "2 shares for 3"), ((0.5, 1, 1), "the first layer 0.5"), ((1, 0, 1), "above 0"), ((1, 1.5, 1), "1.5")],
)
def test_wrong_routings(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        checked_routing(Wrong(*shares), 3)
