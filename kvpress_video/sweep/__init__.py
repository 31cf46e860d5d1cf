"""Sweeps: methods × budgets on the questions of a benchmark, with intervals, resumable."""

from .sweep import DEFAULT_BUDGETS, Sweep, run_sweep
from .tasks import Cell, make_cells, split_methods

__all__ = ["DEFAULT_BUDGETS", "Cell", "Sweep", "make_cells", "run_sweep", "split_methods"]
