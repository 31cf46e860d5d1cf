"""A larger budget never answers fewer questions right, beyond what chance explains."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_rows import rows

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.compressor.registry import make_method, method_names
from kvpress_video.contract.random_entries import footage, thinned
from kvpress_video.sweep import make_grid, run_sweep
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.store import Store
from kvpress_video.sweep.stats.growth import falls_with_budget

BUDGETS = ["75%", "50%", "37.5%", "27%", "25%", "18%", "12.5%", "9%", "6.25%", "4.5%", "3.125%", "2%"]
ELSEWHERE = "router-similarity"  # needs a mixture of experts, which the bundled model is not


@pytest.mark.parametrize("later_pass", [False, True])
@pytest.mark.parametrize("method", ["tar", "tar:recent_ratio=0.5", "infinipot-v"])
def test_every_budget_keeps_what_a_smaller_one_keeps(method: str, later_pass: bool) -> None:
    """Protected frames take two thirds of TaR's share at most, so its choice from the past grows with the budget."""
    cached, before = thinned(footage(), 8, 40) if later_pass else footage(), set[int]()
    for keep in range(1, len(cached)):
        chosen = set(make_method(method).select(cached, keep)[0, 0].tolist())
        assert before <= chosen
        before = chosen


def test_a_fall_is_found_and_noise_is_not() -> None:
    """One answer of four is lost at 50%; at 25% every other clip loses one of them, and at 75% the others do."""

    def at(budget: str, ratio: float, wrong: int, *clips: int) -> list:
        cell = Cell("tar", budget)
        return rows(cell, lambda clip, number: float(not (number == wrong and clip % 2 in clips)), 16, ratio=ratio)

    noise = at("25%", 0.25, 0, 0) + at("75%", 0.75, 0, 1)
    assert falls_with_budget(noise) == []
    [found] = falls_with_budget(noise + at("50%", 0.5, 1, 0, 1) + at("12.5%", 0.125, 1))
    assert (found.smaller, found.larger, found.difference.mean) == ("12.5%", "50%", -0.25)


@pytest.mark.slow
def test_no_method_falls_when_its_budget_grows(tmp_path: Path) -> None:
    methods = [name for name in method_names() if name not in (UNCOMPRESSED, ELSEWHERE)]
    grid = make_grid(methods=methods, budgets=BUDGETS, benchmarks="world:count=12,frames=16", device="cpu")
    refused = run_sweep(grid, tmp_path, workers=2).failures  # some methods have least or largest budgets
    assert all(failure.error.startswith("BudgetError") for failure in refused)
    with Store(tmp_path) as store:
        falls = falls_with_budget(store.rows(), alpha=0.05 / len(methods))
    assert not falls, "; ".join(map(str, falls))
