"""Budgets that give a layer more entries than the frames have."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kvpress_video.budget import Budget
from kvpress_video.cache.overfull_layer import overfull_layer
from kvpress_video.compressor.base import checked_layer_budgets
from kvpress_video.compressor.registry import make_method


@pytest.mark.parametrize("unit", ["ratio", "tokens"])
@pytest.mark.parametrize("name", ["mod", "pyramid", "vfl", "vfl-drop", "transv", "per-layer:shares=(1,50)"])
def test_the_largest_budget_is_named(name: str, unit: Any) -> None:
    method = make_method(name)

    def by_layer(keep: int) -> tuple[int, ...]:
        return checked_layer_budgets(method, keep, 4)

    layer = max(range(4), key=lambda number: by_layer(512)[number])
    asked = Budget(1 if unit == "ratio" else 512, unit)
    message = str(overfull_layer(method, asked, by_layer, layer, 512, 512))
    opening = f"{name.partition(':')[0]} at {asked} would give layer {layer} {by_layer(512)[layer]} entries, but the fr"
    assert message.startswith(opening)
    [named] = re.findall(r"ask for at most (.*), or spread", message)
    most = Budget.parse(named).entries(512)
    assert max(by_layer(most)) <= 512 < max(by_layer(most + 2))
