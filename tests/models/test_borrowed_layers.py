"""Layers that read the keys and values of another, and how each names it."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from kvpress_video.models.text_layers import CannotServe, borrowing_modules


def attention(**facts: Any) -> nn.Module:
    """An attention module with these attributes."""
    module = nn.Module()
    for name, value in facts.items():
        setattr(module, name, value)
    return module


def test_the_last_layer_of_its_kind_that_stores_is_read() -> None:
    modules = {
        0: attention(layer_type="sliding_attention", store_full_length_kv=True),
        1: attention(layer_type="full_attention", store_full_length_kv=True),
        2: attention(layer_type="sliding_attention", is_kv_shared_layer=True),
        3: attention(layer_type="full_attention", is_kv_shared_layer=True),
    }
    assert borrowing_modules(modules) == {0: [modules[2]], 1: [modules[3]]}


def test_a_layer_that_is_named_is_read() -> None:
    """As in Gemma 3n of transformers 4.57, whose attention modules have no kind."""
    modules = {
        0: attention(store_full_length_kv=True),
        1: attention(store_full_length_kv=True),
        2: attention(is_kv_shared_layer=True, kv_shared_layer_index=0),
        3: attention(is_kv_shared_layer=True, kv_shared_layer_index=1),
    }
    assert borrowing_modules(modules) == {0: [modules[2]], 1: [modules[3]]}


def test_a_layer_of_unknown_kind_is_refused() -> None:
    with pytest.raises(CannotServe, match="layer 1 reuses"):
        borrowing_modules({1: attention(is_kv_shared_layer=True)})
