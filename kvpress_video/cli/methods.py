"""`kvpress-video methods`: a table of the installed methods, or the card of one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .common import DONE, Commands, print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from ..compressor.listing import MethodInfo

COLUMNS = ("method", "year", "idea", "fidelity", "stages", "needs", "source")


def add(commands: Commands) -> None:
    """Add the command."""
    methods = commands.add_parser(
        "methods",
        help="list the installed methods, or print the card of one",
        description="List the installed methods: where each comes from, which idea it follows and "
        "how faithfully; or print the card of one.",
    )
    methods.set_defaults(run=_methods)
    methods.add_argument("name", nargs="?", metavar="NAME", help="print the card of this method")


def _methods(options: argparse.Namespace) -> int:
    from ..compressor.listing import list_methods, method_card

    if options.name is None:
        print_tables([_table(list_methods())], _legend())
    else:
        print(method_card(options.name).rstrip())
    return DONE


def _table(methods: list[MethodInfo]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for each in methods:
        year = "" if each.year is None else str(each.year)
        lists = (", ".join(part) for part in (each.stages, each.needs))
        cells = (each.name, year, each.family, each.fidelity, *lists, each.broken or each.source)
        table.add_row(*map(Text, cells))
    return table


def _legend() -> list[str]:
    from ..compressor.base import FIDELITIES

    legend = [f"{fidelity}: {meaning}" for fidelity, meaning in FIDELITIES.items()]
    return ["", *legend, "", "kvpress-video methods NAME prints the card of one: formula, settings, limitations."]
