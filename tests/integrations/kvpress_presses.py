"""Presses of an installed kvpress on video models; `make test-kvpress` runs this, where transformers is old enough.

The file's name keeps it out of other runs, whose environments cannot hold kvpress.
"""

from __future__ import annotations

import logging
from typing import Any

import kvpress
import pytest
import torch
import zoo
from generation import answer, compressed, model_of, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import make_method

logging.getLogger("kvpress").setLevel(logging.ERROR)  # it warns of every model it was not tested with

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
FRAMES = 12
PRESSES: dict[str, Any] = {
    "Knorm": kvpress.KnormPress(),
    "Random": kvpress.RandomPress(seed=0),
    "StreamingLLM": kvpress.StreamingLLMPress(),
    "SnapKV": kvpress.SnapKVPress(window_size=4),
    "TOVA": kvpress.TOVAPress(),
    "PyramidKV": kvpress.PyramidKVPress(window_size=4),
    "ExpectedAttention": kvpress.ExpectedAttentionPress(n_future_positions=16),
    "LagKV": kvpress.LagKVPress(lag_size=12),
    "KeyDiff": kvpress.KeyDiffPress(),
    "LeverageScore": kvpress.LeverageScorePress(),
    "NonCausalAttn": kvpress.NonCausalAttnPress(chunk_size=32),
    "CUR": kvpress.CURPress(),
    "Compactor": kvpress.CompactorPress(chunk_size=32),
    "CriticalKV": kvpress.CriticalKVPress(kvpress.SnapKVPress(window_size=4)),
}
ALIKE: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "Knorm": (kvpress.KnormPress(), "key-norm", {}),
    "SnapKV": (kvpress.SnapKVPress(window_size=4, kernel_size=1), "snapkv", {"window": 4, "kernel": 1}),
    "TOVA": (kvpress.TOVAPress(), "tova", {}),
}


def kept_by(model: Any, method: Any, inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    with kv.compress(model, method, "25%", **options) as run:
        answer(model, inputs, new=2)
    return list(run.kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("prefill", ["split", "whole"])
def test_a_press_keeps_text_and_its_budget(press: str, family: str, prefill: Any) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES)])
    words = torch.isin(inputs["input_ids"][0], torch.tensor(zoo.WORDS)).nonzero().flatten()
    torch.manual_seed(0)
    with kv.compress(model, kv.from_kvpress(PRESSES[press]), "25%", prefill=prefill) as run:
        found = answer(model, inputs, new=2)
    rows, columns = zoo.grid(family)
    frames = FRAMES * rows * columns + run.report.label_tokens
    assert set(map(sum, zip(run.report.entries, run.report.label_entries, strict=True))) == {int(frames / 4 + 0.5)}
    assert all(bool(torch.isin(words, head).all()) for kept in run.kept for head in kept[0])
    assert found.logits.isfinite().all()
    assert len(compressed(found.output.past_key_values)) == len(run.kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ALIKE)
def test_a_press_keeps_what_the_method_of_this_package_keeps(name: str, family: str) -> None:
    """Text after the video asks, so that kvpress protects no frame of its own accord."""
    press, method, settings = ALIKE[name]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES)])
    expected = kept_by(model, make_method(method, **settings), inputs, prefill="whole")
    found = kept_by(model, kv.from_kvpress(press), inputs, prefill="whole")
    assert all(map(torch.equal, found, expected))


def test_presses_by_name() -> None:
    assert kv.from_kvpress("SnapKVPress", window_size=32).describe()["window_size"] == 32
    with pytest.raises(kv.UnknownNameError, match="Did you mean 'KnormPress'"):
        kv.from_kvpress("KnromPress")


@pytest.mark.parametrize("press", [kvpress.ThinKPress(), kvpress.AdaKVPress(kvpress.KnormPress())], ids=str)
def test_presses_that_score_nothing_are_refused(press: Any) -> None:
    with pytest.raises(kv.MethodError, match=r"has no score\("):
        kv.from_kvpress(press)
