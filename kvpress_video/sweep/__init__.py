"""Sweeps: a grid of models × benchmarks × methods × budgets × seeds, with intervals, resumable."""

from .benchmark import BENCHMARKS, Benchmark, Clip, Question
from .cells import Cell, Setup
from .grid.spec import Grid, make_grid
from .grid.yaml_file import read_grid
from .results.store import Store
from .run.sweep import SweepResult, run_sweep
from .stats.summary import SummaryRow, summarise

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Cell",
    "Clip",
    "Grid",
    "Question",
    "Setup",
    "Store",
    "SummaryRow",
    "SweepResult",
    "make_grid",
    "read_grid",
    "run_sweep",
    "summarise",
]
