"""Evicted entries that text reads, against the model's own attention module run on them alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from generation import answer, model_of, two_videos, video_prompt
from kvpress_video.methods.transv import TransV
from reference_masks import skipping_answer
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.on_models import on_model
from kvpress_video.errors import BudgetError, UnsupportedModelError
from kvpress_video.models.cache_argument import CACHE
from kvpress_video.models.loading import load_bundled

QWEN = "qwen2_5_vl"
LARGEST = (1 + 3 * 0.5) / 4
GATED = ("qwen3_5", "qwen3_5_moe")


@dataclass(frozen=True)
class Dropping(TransV):
    """The same selection without a transfer."""

    def transfer(self, layer: int, layers: int) -> None:
        return None


@contextmanager
def reading(model: Any, layer: int, evicted: Tensor, first: int, weight: float) -> Iterator[None]:
    """Add to the attention of a layer, in a prefill in one pass, what its tokens from `first` on read of `evicted`
    columns alone.
    """
    attention, busy = model.get_decoder().layers[layer].self_attn, []

    def add(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        states = kwargs["hidden_states"]
        if busy or states.shape[1] == 1:
            return output
        mask = torch.full((1, 1, states.shape[1], states.shape[1]), torch.finfo(states.dtype).min)
        mask[..., evicted] = 0
        busy.append(module)
        read = module(**{**kwargs, "attention_mask": mask, CACHE: None})[0]
        busy.clear()
        read[:, :first] = 0
        return (output[0] + weight * read, *output[1:])

    handle = attention.register_forward_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", [family for family in zoo.FAMILIES if family not in (*GATED, "gemma3")])
def test_text_reads_the_evicted_entries_through_the_layer(family: str) -> None:
    model = model_of(family, "eager")
    prompt = video_prompt(family)
    inputs = zoo.inputs(model, [prompt])
    ids = inputs["input_ids"][0]
    method = make_method("transv", base="recent", layer=1, alpha=0.8)
    with kv.compress(model, method, LARGEST, prefill="whole", labels="keep") as run:
        ours = answer(model, inputs)
    kept = [kept[0] for kept in run.kept]
    assert torch.equal(kept[1], kept[2])
    evicted = torch.ones(len(ids), dtype=torch.bool)
    evicted[kept[1][0].long()] = False
    first = zoo.expected_layout(family, prompt)[-1].token + 1
    with reading(model, 1, evicted, first, math.tanh(0.8)):
        expected = skipping_answer(model, inputs, kept, ours.tokens, evicts=1)
    torch.testing.assert_close(ours.logits, expected, rtol=0, atol=1e-5)
    assert (ours.logits - skipping_answer(model, inputs, kept, ours.tokens, evicts=1)).abs().max() > 1e-3


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize(
    "options",
    [{"budget": LARGEST, "prefill": "whole"}, {"budget": "40%"}, {"budget": 20, "chunk": 12}],
    ids=["whole", "split", "chunked"],
)
def test_alpha_of_zero_drops_bit_for_bit(options: dict[str, Any], positions: Any) -> None:
    model = model_of(QWEN, "eager")
    inputs = zoo.inputs(model, [two_videos(QWEN)])
    found = []
    for method in (Dropping(), TransV(alpha=0.0), TransV(alpha=0.5)):
        with kv.compress(model, method, **options, positions=positions) as run:
            found.append((answer(model, inputs).logits, run.kept))
    (dropped, kept), (zero, same), (read, others) = found
    assert torch.equal(zero, dropped)
    assert not torch.equal(read, dropped)
    assert all(torch.equal(one, other) and torch.equal(one, third)
               for one, other, third in zip(kept, same, others, strict=True))  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 12])
def test_rows_of_a_padded_batch_equal_each_alone(chunk: int | None) -> None:
    model = model_of(QWEN, "eager")
    prompts = [two_videos(QWEN), video_prompt(QWEN), video_prompt(QWEN)]
    options: dict[str, Any] = {"method": TransV(alpha=0.5), "budget": "40%"} | ({"chunk": chunk} if chunk else {})
    with kv.compress(model, **options):
        both = answer(model, zoo.inputs(model, prompts))
    with kv.compress(model, **options):
        same = answer(model, zoo.inputs(model, prompts[1:]))
    for row, prompt in enumerate(prompts):
        with kv.compress(model, **options):
            alone = answer(model, zoo.inputs(model, [prompt]))
        torch.testing.assert_close(both.logits[row], alone.logits[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(same.logits, both.logits[1:], rtol=0, atol=2e-5)


def test_entries_that_wait_for_the_text_count_as_bytes() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [two_videos(QWEN)])
    peaks = []
    for method in (Dropping(), TransV()):
        with kv.compress(model, method, LARGEST) as run:
            answer(model, inputs, new=1)
        peaks.append(run.report.peak_bytes)
    assert peaks[1] > peaks[0]
    with kv.compress(model, TransV(), "150KiB") as run:
        answer(model, inputs, new=1)
    assert run.report.peak_bytes <= 150 * 1024


def test_the_rules_of_the_contract_on_a_model() -> None:
    method = make_method("transv")
    for trial in on_model(QWEN):
        outcome = trial.outcome(method)
        assert not trial.applies(method) or not outcome.wrong
        assert outcome.refusals.keys() <= {"100%", "64 in a stream"}


def test_streams_and_gated_attention_are_refused() -> None:
    model, processor = load_bundled(QWEN, device="cpu")
    with pytest.raises(BudgetError, match="a stream would accumulate without bound"):
        kv.VideoSession(model, processor, "transv", 64)
    for family in set(GATED) & set(zoo.FAMILIES):
        with pytest.raises((UnsupportedModelError, BudgetError), match=r"gates the output|after it"):
            kv.compress(model_of(family), "transv:layer=0", "50%")
