"""Frames that are encoded anew with only text in context, against the stock model with a mask that hides the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, two_videos, video_prompt
from reference_masks import blinded_answer, evicted
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Context
from kvpress_video.errors import BudgetError, UnsupportedModelError

FAMILIES = [family for family in ("qwen2_5_vl", "llava_next_video", "qwen3_vl") if family in zoo.FAMILIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_newest_frame_sees_text_alone(family: str) -> None:
    model, prompt = model_of(family, "eager"), video_prompt(family)
    inputs, layout = zoo.inputs(model, [prompt]), zoo.expected_layout(family, prompt)
    with kv.compress(model, "fresh:n=1,base=uniform", "50%", labels="keep") as run:
        ours = answer(model, inputs)
    visual = torch.zeros(inputs["input_ids"].shape[1], dtype=torch.bool)
    visual[[slot.token for slot in layout]] = True
    newest = torch.zeros_like(visual)
    newest[[slot.token for slot in layout if slot.frame == layout[-1].frame]] = True
    apart = newest[:, None] & (visual & ~newest)
    hidden = [evicted(kept[0], len(visual)) for kept in run.kept]
    after = layout[-1].token + 1
    masked = blinded_answer(model, inputs, hidden, ours.tokens, after, apart)
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)
    assert (ours.logits - blinded_answer(model, inputs, hidden, ours.tokens, after)).abs().max() > 1e-4


def _newest(model: Any, inputs: dict[str, Tensor], method: str, budget: Any, **options: Any) -> list[Tensor]:
    """Keys of the last frame of each row and layer after a prompt, and of its last video."""
    with kv.compress(model, method, budget, labels="drop", **options):
        output = answer(model, inputs, new=1).output
    found = []
    for layer in compressed(output.past_key_values):
        entries = layer.entries(Context())
        for row in range(len(entries.keys)):
            order = entries.segment[row] * 1000 + entries.frame[row]
            found.append(entries.keys[row][order == order.max()])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_came_before_makes_no_difference(family: str) -> None:
    model = model_of(family, "sdpa")
    inputs = zoo.inputs(model, [video_prompt(family)])
    whole = _newest(model, inputs, "fresh:n=1,base=recent", "50%")
    for budget, options in (("50%", {"prefill": "whole"}), (4 * 6, {"chunk": 8}), ("35%", {})):
        if len(others := _newest(model, inputs, "fresh:n=1,base=recent", budget, **options)):
            torch.testing.assert_close(others, whole, rtol=0, atol=1e-5)
    contaminated = _newest(model, inputs, "recent", "50%")
    assert (contaminated[-1] - whole[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_rows_of_a_batch_and_several_videos(positions: Any) -> None:
    family = FAMILIES[0]
    model = model_of(family, "sdpa")
    prompts = [two_videos(family), zoo.default_prompts(family)[1]]
    options = {"method": "fresh:n=1,base=recent", "budget": "50%", "positions": positions}
    both = _newest(model, zoo.inputs(model, prompts), **options)
    for number, prompt in enumerate(prompts):
        alone = _newest(model, zoo.inputs(model, [prompt]), **options)
        torch.testing.assert_close(both[number :: len(prompts)], alone, rtol=0, atol=1e-5)


def test_nothing_is_encoded_anew_where_everything_stays() -> None:
    model = model_of(FAMILIES[0], "eager")
    inputs = zoo.inputs(model, [video_prompt(FAMILIES[0])])
    with kv.compress(model, "fresh", 10_000):
        ours = answer(model, inputs)
    assert torch.equal(ours.logits, answer(model, inputs).logits)


def test_what_cannot_be_encoded_anew() -> None:
    model = model_of(FAMILIES[0])
    with pytest.raises(BudgetError, match="does not cover the frames that Fresh re-encodes"):
        kv.compress(model, "fresh", "1MiB")
    for family in {"gemma3", "qwen3_5"} & set(zoo.FAMILIES):
        with pytest.raises(UnsupportedModelError, match="cannot exchange what the cache holds"):
            kv.compress(model_of(family), "fresh", "50%")
