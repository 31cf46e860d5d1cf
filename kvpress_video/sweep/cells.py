"""What a sweep runs: cells, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass

from ..bundled import BUNDLED
from ..compression import Positions, Prefill, Stage
from .benchmark import Clip

UNCOMPRESSED = "full"
MODEL_SETTINGS = ("device", "dtype", "attention", "device_map")
"""What may be said of how a model is loaded, as in `load`."""


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
