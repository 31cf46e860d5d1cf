"""Cells of a sweep, and the setup that they share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..budget import Budget
from ..cache.quantization import UNQUANTIZED
from ..compressor.registry import make_method
from ..prefill.options import Labels, Positions, Prefill, Stage, resolved_prefill
from ..utils.model_names import BUNDLED
from .benchmark import Clip


@dataclass(frozen=True)
class Cell:
    """One point of a sweep, in the canonical texts of a grid, so that equal cells compare equal.

    Attributes:
        method: a name, or `"name:setting=value,…"`.
        budget: as in `Budget.parse`.
        model: `"bundled"`, or a folder or hub name, with optional `":dtype=bfloat16,attention=sdpa,device_map=auto"`.
        benchmark: a name, or `"name:option=value,…"`.
        seed: seed of the benchmark's sampling and of methods that draw random numbers.
        quantize: bits of cached keys and values, as in `compress`: `"4"`, `"4:residual_length=0"`, or `"none"`.
    """

    method: str
    budget: str
    model: str = BUNDLED
    benchmark: str = "world"
    seed: int = 0
    quantize: str = UNQUANTIZED

    @property
    def name(self) -> str:
        """The method's name in tables and comparisons, with the bits of quantisation."""
        return self.method if self.quantize == UNQUANTIZED else f"{self.method} quantize={self.quantize}"

    def __str__(self) -> str:
        return f"{self.name} {self.budget}"


@dataclass(frozen=True)
class Setup:
    """Settings that all cells of a sweep share.

    Attributes:
        stage: as in `compress`.
        prefill: as in `compress`.
        positions: as in `compress`.
        labels: as in `compress`.
        experts: as in `compress`.
        device: device of models that name none: `"cpu"`, `"cuda:1"`; by default a GPU if there is one.
        batch: questions about a clip per batch.
        max_new_tokens: maximum number of tokens of an answer; the benchmark's own by default.
        reuse: whether cells that differ only in a one-shot method or budget share one prefill of each clip.
    """

    stage: Stage = "cache"
    prefill: Prefill = "auto"
    positions: Positions = "keep"
    labels: Labels = "spread"
    device: str | None = None
    batch: int = 8
    max_new_tokens: int | None = None
    reuse: bool = True
    experts: int | None = None

    def options(self, cell: Cell) -> dict[str, Any]:
        """Return the options of `compress` for a cell."""
        names = ("stage", "prefill", "positions", "labels", "experts")
        return {name: getattr(self, name) for name in names} | {"quantize": cell.quantize}


@dataclass(frozen=True)
class Task:
    """One clip of a benchmark, and the cells to run on it with one loaded model.

    Attributes:
        model, benchmark, seed: those of all cells.
        clip: the clip, with its questions.
        cells: the cells, in order.
    """

    model: str
    benchmark: str
    seed: int
    clip: Clip
    cells: tuple[Cell, ...]


def suite_of(benchmark: str, seed: int) -> str:
    """Name the clips of a benchmark at a seed, in the plan of a sweep."""
    return f"{benchmark} seed {seed}"


def checkpoint_of(model: str) -> str:
    """Name the files of a model, in the plan of a sweep."""
    return f"model {model}"


def prefill_of(setup: Setup, budget: str) -> Prefill:
    """Resolve how the prompt is prefilled at a budget.

    Raises:
        BudgetError: it cannot be prefilled as the setup asks.
    """
    return resolved_prefill(setup.prefill, setup.stage, Budget.parse(budget), None)


def prefill_key(cell: Cell, setup: Setup) -> Hashable:
    """Return a key that is equal for cells of one model, benchmark and seed that share the prefill of each clip.

    One-shot compressions of the cache share it, unless visual tokens use fewer experts. Methods that probe with the end
    of the prompt prefill it too, and share with each other.
    """
    alone = setup.stage != "cache" or setup.experts is not None
    if not setup.reuse or alone or prefill_of(setup, cell.budget) != "split":
        return cell
    return probe_of(cell.method)


@cache
def probe_of(method_text: str) -> int:
    """Return how many tokens at the end of a prompt a method probes with."""
    method = make_method(method_text)
    observer: Any = method.observer
    return observer.probe if "probe" in method.needs else 0
