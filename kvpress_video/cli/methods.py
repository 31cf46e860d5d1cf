"""`kvpress-video methods`: a table of the installed methods, or the card of one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .common import DONE, print_tables
from .names import check_methods
from .parsers import Commands, add_command, wide_option

if TYPE_CHECKING:
    from rich.table import Table

    from ..compressor.listing import MethodInfo

COLUMNS = ("method", "year", "idea", "fidelity", "source")
WIDE = ("method", "year", "idea", "fidelity", "stages", "needs", "source")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def add(commands: Commands) -> None:
    """Add the command."""
    methods = add_command(
        commands,
        "methods",
        help="list the installed methods, or print the card of one",
        description="List the installed methods with their source, family and fidelity, or print the card of one.",
        examples=("", "infinipot-v"),
    )
    methods.set_defaults(run=_methods)
    wide_option(methods, "stages and inputs")
    methods.add_argument("name", nargs="?", metavar="NAME", help="print the card of this method; settings are ignored")


def _methods(options: argparse.Namespace) -> int:
    check_methods(options.name)
    from ..compressor.listing import list_methods, method_card
    from ..utils.named_settings import parse

    if options.name is None:
        print_tables([_table(list_methods(), WIDE if options.wide else COLUMNS)], _legend(), fit=not options.wide)
    else:
        _print_card(method_card(parse(options.name)[0]).rstrip())
    return DONE


def _print_card(card: str) -> None:
    """Print a card as Markdown; on a terminal, fit it to the width, and leave out the targets of links."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(Markdown(_LINK.sub(r"\1", card)))
    else:
        print(card)


def _table(methods: list[MethodInfo], columns: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != "source")
    for each in methods:
        stages, needs = (", ".join(part) for part in (each.stages, each.needs))
        year = "" if each.year is None else str(each.year)
        cells = (each.name, year, each.family, each.fidelity, stages, needs, each.broken or each.source)
        by_column = dict(zip(WIDE, cells, strict=True))
        table.add_row(*(Text(by_column[column]) for column in columns))
    return table


def _legend() -> list[str]:
    from ..compressor.base import FIDELITIES

    legend = [f"{fidelity}: {meaning}" for fidelity, meaning in FIDELITIES.items()]
    return ["", *legend, "", "kvpress-video methods NAME prints the card of one: formula, settings, limitations."]
