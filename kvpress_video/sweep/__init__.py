"""Sweeps: a grid of models × benchmarks × methods × budgets × seeds, resumable, summarised with intervals."""

from .benchmark import BENCHMARKS, Benchmark, Clip, Question, same_words
from .cells import Cell, Setup
from .gate.compare import Comparison, Gate, compare_sweeps
from .gate.sweep_data import SweepData
from .gate.text import findings as gate_findings
from .gate.text import notes as gate_notes
from .grid.spec import Grid, make_grid
from .grid.yaml_file import read_grid
from .results.records import Row
from .results.store import Store
from .run.sweep import SweepResult, run_sweep
from .stats.clustered import PairedScores
from .stats.inference import Difference, Interval, accuracy, compare, detectable, holm, retention
from .stats.summary import SummaryRow, records, summarise
from .stats.text import notes as summary_notes

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Cell",
    "Clip",
    "Comparison",
    "Difference",
    "Gate",
    "Grid",
    "Interval",
    "PairedScores",
    "Question",
    "Row",
    "Setup",
    "Store",
    "SummaryRow",
    "SweepData",
    "SweepResult",
    "accuracy",
    "compare",
    "compare_sweeps",
    "detectable",
    "gate_findings",
    "gate_notes",
    "holm",
    "make_grid",
    "read_grid",
    "records",
    "retention",
    "run_sweep",
    "same_words",
    "summarise",
    "summary_notes",
]
