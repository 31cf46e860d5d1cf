"""Masks for flash attention, through a plain torch function with flash attention's contract.

transformers hands a flash kernel no mask, or a (batch, keys) one whose zeros are left out of keys and, for the last
columns, of queries; what is left is causal from the bottom right, as far as the window of a sliding layer goes, also
inside an image. `contract` does exactly that, without the kernel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import kvpress_video as kv
from kvpress_video.models.gemma3 import Gemma3

NAME = "flash_attention_2"


def contract(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float,
    sliding_window: int | None = None, **rest: Any
) -> tuple[Tensor, None]:  # fmt: skip
    assert attention_mask is None or attention_mask.shape == (key.shape[0], key.shape[2])
    alone = query.shape[2] == 1  # transformers looks for packed sequences only where there are several queries
    assert alone or rest.get("position_ids") is None, (
        "flash attention would take gaps in positions for packed sequences"
    )
    groups = query.shape[1] // key.shape[1]
    out = torch.zeros_like(query)
    for row in range(len(query)):
        valid = torch.ones(key.shape[2], dtype=torch.bool) if attention_mask is None else attention_mask[row].bool()
        asking = valid[-query.shape[2] :]
        keys, values = (part[row, :, valid].repeat_interleave(groups, dim=0) for part in (key, value))
        causal = torch.ones(int(asking.sum()), keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - int(asking.sum()))
        if sliding_window is not None:
            causal &= ~causal.tril(keys.shape[1] - int(asking.sum()) - sliding_window)
        out[row, :, asking] = scaled_dot_product_attention(
            query[row, :, asking], keys, values, attn_mask=causal, scale=scaling
        )
    return out.transpose(1, 2), None


@pytest.fixture(params=zoo.FAMILIES)
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The same model with sdpa, and with the contract in its text model; both see images one way."""
    monkeypatch.setattr(Gemma3, "image_blocks", False)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, NAME, contract)
    flash = zoo.build(request.param, "sdpa")
    flash.get_decoder().config._attn_implementation = NAME
    return model_of(request.param, "sdpa"), flash


@pytest.mark.parametrize("stage", ["cache", "input"])
@pytest.mark.parametrize("method", ["average-pooling", "random"])
def test_flash_attention_gives_what_sdpa_gives(pair: tuple[Any, Any], method: str, stage: Any) -> None:
    sdpa, flash = pair
    family = sdpa.config.model_type
    if stage == "input" and family not in zoo.DROPPING:
        pytest.skip("its tokens cannot be dropped before prefill")
    first = video_prompt(family)
    longer = zoo.Prompt([zoo.Text(9, seed=9), zoo.Video(6, *zoo.grid(family), seed=12), zoo.Text(3, seed=13)])
    for prompts in ([first], [first, longer]):
        inputs = zoo.inputs(sdpa, prompts)
        if "token_type_ids" in inputs:
            inputs["token_type_ids"].zero_()
        logits = []
        for model in (sdpa, flash):
            with kv.compress(model, method, "40%", stage=stage):
                out = answer(model, inputs).output
                ids = torch.cat([out.sequences, out.sequences[:, -3:]], dim=1)
                mask = torch.ones_like(ids)
                mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
                turn = {"input_ids": ids, "attention_mask": mask}
                more = answer(model, turn, past_key_values=out.past_key_values)
            logits.append(torch.cat([torch.stack(out.logits, 1), more.logits], dim=1))
        torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
