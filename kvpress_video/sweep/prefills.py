"""Which cells of a sweep share the prefill of a clip."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any

from ..budget import Budget
from ..compression import Prefill, resolved_prefill
from ..registry import make_method
from .cells import Cell, Setup


def prefill_of(setup: Setup, budget: str) -> Prefill:
    """How the prompt is read at a budget: what `"auto"` stands for.

    Raises:
        BudgetError: it cannot be read as the setup asks.
    """
    return resolved_prefill(setup.prefill, setup.stage, Budget.parse(budget), None)


def shared_by(cell: Cell, setup: Setup) -> Hashable:
    """What cells of one model, benchmark and seed have in common if they share the prefill of each clip.

    One-shot compressions of the cache do; those that ask with the end of the prompt read it too, and share with each
    other.
    """
    if not setup.reuse or setup.stage != "cache" or prefill_of(setup, cell.budget) != "split":
        return cell
    return probe_of(cell.method)


@cache
def probe_of(method_text: str) -> int:
    """How many of the last tokens of a prompt ask after the video."""
    method = make_method(method_text)
    observer: Any = method.observer
    return observer.probe if "probe" in method.needs else 0
