"""What a sweep runs: cells, and what all of them share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..budget import Budget
from ..compression import Positions, Prefill, Stage, resolved_prefill
from ..compressor.registry import make_method
from ..models.loading import BUNDLED
from .benchmark import Clip


@dataclass(frozen=True)
class Cell:
    """One point of a sweep. All are texts as a grid spells them, so that a cell reads the same everywhere.

    Attributes:
        method: a name, or `"name:setting=value,…"`.
        budget: as in `Budget.parse`.
        model: `"bundled"`, a folder or hub name, with `":dtype=bfloat16,attention=sdpa,device_map=auto"` where asked.
        benchmark: a name, or `"name:option=value,…"`.
        seed: of the benchmark's draw and of methods that have one.
    """

    method: str
    budget: str
    model: str = BUNDLED
    benchmark: str = "world"
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.budget}"


@dataclass(frozen=True)
class Setup:
    """What all cells of a sweep share.

    Attributes:
        stage, prefill, positions: as in `compress`.
        device: where models go that name none: `"cpu"`, `"cuda:1"`; by default a GPU if there is one.
        batch: questions about a clip that are answered together.
        max_new_tokens: of an answer; the benchmark's own by default.
        reuse: whether cells that differ only in a one-shot method or budget share one prefill of each clip.
    """

    stage: Stage = "cache"
    prefill: Prefill = "auto"
    positions: Positions = "keep"
    device: str | None = None
    batch: int = 8
    max_new_tokens: int | None = None
    reuse: bool = True


@dataclass(frozen=True)
class Task:
    """One clip of a benchmark, and the cells that one loaded model is to run on it, one after the other.

    Attributes:
        model, benchmark, seed: what its cells have in common.
        clip: with its questions.
        cells: in order.
    """

    model: str
    benchmark: str
    seed: int
    clip: Clip
    cells: tuple[Cell, ...]


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
