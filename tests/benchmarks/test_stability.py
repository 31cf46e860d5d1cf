"""Kendall's tau of the order of methods."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from kvpress_video.benchmarks.publishing.stability import Table, as_csv, as_markdown, tau
from sweep_rows import MEASURED

from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Answered, Row

METHODS = ("recent", "snapkv", "tar", "van")


def row(model: str, method: str, clip: int, score: float | None, budget: str = "25%") -> Row:
    cell = Cell(method, budget, model=model, benchmark="world", seed=0)
    return Row(cell, f"{clip}.mp4", MEASURED, Answered("0", "needle", "", "", "", "", "", score))


def rows(model: str, ranks: dict[str, int], clips: int = 12) -> list[Row]:
    """Each method answers as many clips as its rank says."""
    return [
        row(model, method, clip, float(clip < 3 * ranks[method])) for method, clip in product(METHODS, range(clips))
    ]


def test_the_order_of_two_models() -> None:
    dice = np.random.default_rng(0).random((4, 6))
    assert tau(dice, dice) == 1
    assert tau(dice, -dice) == -1
    one, other = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [3.0], [2.0]])
    assert tau(one, other) == pytest.approx(1 / 3)


def test_only_what_every_model_answered_counts() -> None:
    ranks = dict(zip(METHODS, range(4), strict=True))
    given = rows("a", ranks) + rows("b", ranks)[:-1] + [row("a", "full", 0, 1.0, "100%"), row("a", "tar", 0, None)]
    found = Table.of([*given, row("a", "tar", 0, 1.0, "50%"), row("b", "tar", 99, 1.0)])
    assert found.methods == ["recent", "snapkv", "tar"]
    assert (found.models, found.budgets) == (["a", "b"], ["25%"])
    assert found.scores["a", "25%"].mean(axis=1).tolist() == [0, 0.25, 0.5]
    lines = as_csv(found, {"a": "1", "b": "2"}).splitlines()
    assert lines[1:3] == ['a,25%,"recent",0.0000,12,1', 'a,25%,"snapkv",0.2500,12,1']


def test_the_table_tells_models_apart() -> None:
    ranks = dict(zip(METHODS, range(1, 5), strict=True))
    turned = dict(zip(METHODS, reversed(range(1, 5)), strict=True))
    text = as_markdown(Table.of(rows("one", ranks) + rows("two", turned)))
    assert text.splitlines()[0] == "| 4 methods, 12 clips | 25% |"
    pair, first, second = text.splitlines()[2:]
    assert pair.startswith("| `one` and `two` | -1.00 [")
    assert first.startswith("| halves of the clips, `one` | ")
    assert second.startswith("| halves of the clips, `two` | ")
    assert "nan" not in text
