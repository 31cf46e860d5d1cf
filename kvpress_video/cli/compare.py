"""`kvpress-video compare`: the CI regression gate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import DONE, print_tables, probability
from .parsers import Commands, add_command, wide_option

if TYPE_CHECKING:
    from ..sweep.gate.compare import Gate

FELL = 1


def add(commands: Commands) -> None:
    """Add the command."""
    compare = add_command(
        commands,
        "compare",
        help="check a sweep for regressions against an earlier one",
        description="Compare two sweeps on the questions that both answered. The result is red if accuracy fell "
        "significantly or answers are missing, otherwise green.",
        examples=("sweeps/main sweeps/new", "sweeps/main sweeps/new --fail-under 95%"),
        note="Exit code: 0 if green, 1 if red, 2 if the sweeps cannot be compared.",
    )
    compare.set_defaults(run=_compare)
    compare.add_argument("base", type=Path, metavar="BASE", help="folder of the earlier sweep")
    compare.add_argument("new", type=Path, metavar="NEW", help="folder of the sweep to check")
    compare.add_argument(
        "--fail-under",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="fail if NEW retains significantly less than this fraction of BASE's accuracy: 0.95 or 95%% (default: 1)",
    )
    compare.add_argument(
        "--alpha",
        type=probability,
        default=0.05,
        metavar="P",
        help="probability of a false alarm, over all comparisons (default: %(default)s)",
    )
    compare.add_argument("--methods", default="", help="methods to compare: a,b:setting=1,… (default: all)")
    compare.add_argument("--budgets", default="", help="budgets to compare: 25%%,96,… (default: all)")
    compare.add_argument("--allow-missing", action="store_true", help="pass even if NEW lacks answers of BASE")
    wide_option(compare, "both accuracies and the fraction kept")
    compare.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="output format (default: %(default)s)"
    )


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from ..sweep.gate.compare import compare_sweeps
    from ..sweep.gate.sweep_data import SweepData
    from ..sweep.gate.text import as_json, markdown
    from ..utils.named_settings import split_list

    with Console(stderr=True).status("comparing"):
        gate = compare_sweeps(
            SweepData.read(options.base),
            SweepData.read(options.new),
            options.fail_under,
            options.alpha,
            methods=split_list(options.methods),
            budgets=split_list(options.budgets),
            allow_missing=options.allow_missing,
        )
    shown = {
        "text": lambda gate: _print(gate, options.wide),
        "markdown": lambda gate: print(markdown(gate)),
        "json": lambda gate: print(as_json(gate)),
    }
    shown[options.format](gate)
    return DONE if gate.green else FELL


def _print(gate: Gate, wide: bool) -> None:
    from ..sweep.gate.text import findings, notes, tables, title

    print_tables(tables(gate, wide), [*notes(gate), "", *findings(gate), title(gate)])


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction of BASE's accuracy: write 0.95 or 95%")
    return value
