"""What a sweep runs: cells, and the clips whose questions each cell answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..budget import Budget
from ..errors import BudgetError, UnknownNameError
from ..registry import COMMA_OUTSIDE_BRACKETS, make_method

UNCOMPRESSED = "full"


@dataclass(frozen=True)
class Cell:
    """One method at one budget.

    Attributes:
        method: a name, or `"name:setting=value,…"`.
        budget: as in `Budget.parse`.
    """

    method: str
    budget: str

    def __str__(self) -> str:
        return f"{self.method} {self.budget}"


def make_cells(methods: Sequence[str], budgets: Sequence[str]) -> list[Cell]:
    """Every method at every budget, in this order; the uncompressed cache once, at 100%.

    Raises:
        UnknownNameError: a method or setting does not exist, or there is no method.
        BudgetError: a budget cannot be read, or there is none.
    """
    if not methods:
        raise UnknownNameError("No methods were given: name at least one, such as 'infinipot-v'.")
    for method in methods:
        make_method(method)
    wanted = [str(budget) for budget in budgets]
    for budget in wanted:
        Budget.parse(budget)
    if not wanted and any(method != UNCOMPRESSED for method in methods):
        raise BudgetError("No budgets were given: name at least one, such as '25%'.")
    cells = [Cell(method, budget) for method in methods for budget in (["100%"] if method == UNCOMPRESSED else wanted)]
    return list(dict.fromkeys(cells))


def split_methods(text: str) -> list[str]:
    """The methods in `"a,b:setting=1,other=2,c"`: a part `name=value` belongs to the method before it."""
    methods: list[str] = []
    for part in filter(None, (part.strip() for part in COMMA_OUTSIDE_BRACKETS.split(text))):
        if methods and re.match(r"\w+\s*=", part):
            methods[-1] += "," + part
        else:
            methods.append(part)
    return methods


def same_answer(answer: str, expected: str) -> bool:
    """Whether two answers are the same words, whatever their case and final stop."""
    return _words(answer) == _words(expected)


def _words(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())
