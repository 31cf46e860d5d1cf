"""Sweeps: a grid of models × benchmarks × methods × budgets × seeds, with intervals, resumable."""

from .benchmark import BENCHMARKS, Benchmark, Clip, Question
from .cells import Cell, Setup
from .grid import Grid, make_grid
from .grid_file import read_grid
from .store import Store
from .summary import Line, summarise
from .sweep import Swept, run_sweep

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Cell",
    "Clip",
    "Grid",
    "Line",
    "Question",
    "Setup",
    "Store",
    "Swept",
    "make_grid",
    "read_grid",
    "run_sweep",
    "summarise",
]
