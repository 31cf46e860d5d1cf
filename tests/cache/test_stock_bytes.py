"""The bytes that a stock layer would hold: widths and dtypes of keys and values may differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from kvpress_video.cache.flat import PaddedRoom
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.cache.uneven_layer import UnevenLayer

LAYERS = {"even": CompressedLayer, "uneven": lambda: UnevenLayer(PaddedRoom())}
WIDE, NARROW = torch.float32, torch.bfloat16


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("dtypes", [(WIDE, WIDE), (WIDE, NARROW), (NARROW, WIDE)])
@pytest.mark.parametrize("width", [8, 4])
def test_they_are_those_of_a_stock_layer(
    make: Callable[[], CompressedLayer], dtypes: tuple[torch.dtype, torch.dtype], width: int
) -> None:
    keys, values = torch.ones(2, 3, 5, 8, dtype=dtypes[0]), torch.ones(2, 3, 5, width, dtype=dtypes[1])
    layer = make()
    layer.update(keys, values)
    assert layer.stock_bytes == sum(part.nbytes for part in DynamicLayer().update(keys, values))
