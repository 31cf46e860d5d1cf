"""Summary rows of an imaginary sweep, for figures and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kvpress_video.report import Overlay, Retained
from kvpress_video.sweep.stats.inference import Difference, Interval
from kvpress_video.sweep.stats.summary import SummaryRow

BUDGETS = {"50%": 0.5, "25%": 0.25, "12.5%": 0.125, "6.25%": 0.0625}
TASKS = ("needle", "order", "persistent")


def line(method: str, budget: str = "25%", mean: float = 0.5, **changes: Any) -> SummaryRow:
    """Make a row with a mean accuracy, ±.05, and costs that follow its ratio."""
    ratio = changes.get("ratio", BUDGETS.get(budget, 1.0))

    def accuracy(value: float) -> Interval:
        value = min(1.0, max(0.0, value))
        return Interval(value, max(0.0, value - 0.05), min(1.0, value + 0.05), 48, 24)

    accuracies = {task: accuracy(mean + 0.1 * (number - 1)) for number, task in enumerate(TASKS)}
    retention = Interval(mean, mean - 0.05, mean + 0.05, 48, 24)
    return replace(
        SummaryRow(
            model="bundled",
            benchmark="world",
            group="still",
            method=method,
            budget=budget,
            against="full",
            accuracies={**accuracies, "overall": accuracy(mean)},
            difference=Difference(mean - 1, mean - 1.05, mean - 0.95, 48, 24, 0.01),
            retention=retention,
            entries=512 * ratio,
            ratio=ratio,
            bytes=2e6 * ratio,
            peak_bytes=3e6 * ratio,
            full_bytes=2e6,
            prefill_seconds=0.3,
            compress_seconds=0.01,
            answer_seconds=0.2 + 0.1 * ratio,
            questions=48,
            clips=24,
        ),
        **changes,
    )


def whole(mean: float = 1.0, **changes: Any) -> SummaryRow:
    """Make a row of the full cache."""
    return line("full", "100%", mean, **{"ratio": 1.0, "difference": None, "retention": None} | changes)


def unmeasured(method: str, budget: str, **changes: Any) -> SummaryRow:
    """Make a row of a cell without answers."""
    costs = dict.fromkeys(("entries", "ratio", "bytes", "peak_bytes", "full_bytes", "prefill_seconds"), math.nan)
    none: dict[str, Any] = {"accuracies": {}, "difference": None, "retention": None, "questions": 0, "clips": 0}
    times = dict.fromkeys(("compress_seconds", "answer_seconds"), math.nan)
    return line(method, budget, **{**costs, **times, **none, "group": "", **changes})


def sweep(methods: Sequence[str], groups: Sequence[str] = ("still", "moving"), **changes: Any) -> list[SummaryRow]:
    """Make every method at every budget: each later method is better, and all fall with the budget."""
    found = []
    for number, group in enumerate(groups):
        found.append(whole(0.98, group=group, **changes))
        for rank, method in enumerate(methods):
            for step, budget in enumerate(BUDGETS):
                fall = step * 0.15 * (1 - rank / len(methods)) + 0.03 * number
                found.append(line(method, budget, 0.6 + 0.37 * rank / len(methods) - fall, group=group, **changes))
    return found


def against(best: str, lines: Sequence[SummaryRow], half: float = 0.02) -> list[SummaryRow]:
    """Compare rows with the best one at their budget and group."""
    means = {(each.group, each.budget): each.accuracies["overall"].mean for each in lines if each.method == best}
    found = []
    for each in lines:
        if (each.group, each.budget) in means and each.method != best:
            gap = each.accuracies["overall"].mean - means[each.group, each.budget]
            found.append(replace(each, against=best, difference=Difference(gap, gap - half, gap + half, 48, 24, 0.5)))
    return found


def overlay(methods: Sequence[str] = ("tar", "van"), frames: int = 12, shown: int = 4) -> Overlay:
    """Make an overlay of noise."""
    draw = np.random.default_rng(0)
    chosen = np.linspace(0, frames - 1, shown).round().astype(np.int64)
    pictures = draw.integers(0, 256, (shown, 24, 32, 3), dtype=np.uint8)
    kept = tuple(Retained(name, "25%", 0.25, draw.random((frames, 3, 4)), "red") for name in methods)
    return Overlay("clip-7.mp4", pictures, chosen, np.arange(frames) / 2, 2 * frames, kept, "Which colour?")
