"""The section on rooms about accuracy and budgets."""

from __future__ import annotations

import math

from kvpress_video.benchmarks.publishing.growth import accuracies, outcome
from sweep_rows import rows

from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Row
from kvpress_video.sweep.stats.growth import falls_with_budget

CLIPS = 16


def at(method: str, budget: str, ratio: float, right: int) -> list[Row]:
    """Answers of all clips, of whose four questions the first `right` are answered correctly."""
    return rows(Cell(method, budget), lambda clip, number: float(number < right), CLIPS, ratio=ratio)


def test_a_fall_is_named_with_its_budgets_and_growth_is_not() -> None:
    answered = (
        at("tar", "50%", 0.5, 2) + at("tar", "25%", 0.25, 3) + at("van", "50%", 0.5, 4) + at("van", "25%", 0.25, 3)
    )
    answered += at("otsu", "50%", 0.5, 4)  # refuses 25%
    falls = falls_with_budget(answered, alpha=math.inf)
    lines = accuracies(answered, falls).splitlines()
    assert lines[0] == "| method | 50% | 25% | clearest fall |"
    assert lines[2].startswith("| tar | .50 | .75 | -.25 ")
    assert lines[2].endswith("from 25% to 50%, p <.001 |")
    assert lines[3:] == ["| van | 1.00 | .75 | none |", "| otsu | 1.00 | – | none |"]
    assert outcome(falls, 2, CLIPS).endswith("lose accuracy when their budget grows: `tar`.\n")
    assert outcome([], 2, CLIPS) == "Of 2 methods on 16 clips, these lose accuracy when their budget grows: none.\n"
