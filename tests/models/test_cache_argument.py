"""Modules of the installed transformers take their cache by the names that the hooks read."""

from __future__ import annotations

import inspect

import pytest
import zoo

from kvpress_video.models import adapter_for
from kvpress_video.models.cache_argument import CACHE, STATES


@pytest.mark.parametrize("family", [each for each in ("qwen2_5_vl", "gemma3") if each in zoo.FAMILIES])
def test_text_models_and_attentions(family: str) -> None:
    adapter = adapter_for(zoo.build(family, "sdpa"))
    for module in (adapter.text_model, *adapter.attentions, *adapter.sliding):
        assert CACHE in inspect.signature(module.forward).parameters


def test_recurrent_modules_are_those_of_recurrent_layers() -> None:
    if "qwen3_5" not in zoo.FAMILIES:
        pytest.skip("this transformers has no qwen3_5")
    adapter = adapter_for(zoo.build("qwen3_5", "sdpa"))
    kinds = adapter.layer_kinds
    assert [*adapter.recurrences] == [number for number, kind in enumerate(kinds) if kind == "linear_attention"]
    assert all(STATES in inspect.signature(module.forward).parameters for module in adapter.recurrences.values())
