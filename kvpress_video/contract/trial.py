"""One rule of the contract, and the outcome of checking it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..compressor.base import Compressor
from ..compressor.entries import Entries
from ..compressor.results import WrongSlotsError
from ..errors import BudgetError, KVPressVideoError
from .random_entries import as_declared


def evicts(method: Compressor) -> bool:
    """Whether a method can keep fewer entries than there are."""
    return not method.keeps_all


def prunes(method: Compressor) -> bool:
    """Whether a method works on embeddings before prefill, and evicts."""
    return evicts(method) and "input" in method.stages


def caches(method: Compressor) -> bool:
    """Whether a method works in the cache, and evicts."""
    return evicts(method) and "cache" in method.stages


def scores(method: Compressor) -> bool:
    """Whether a method, or the one that it wraps, gives each entry a score, and evicts."""
    return evicts(method) and type(method.observer).scores is not Compressor.scores


def always(method: Compressor) -> bool:
    """Return True: the rule applies to every method."""
    return True


class Broken(Exception):
    """The violation of a rule, in one sentence."""


@dataclass
class Subject:
    """The method being checked. It may refuse a budget by raising `BudgetError`; refusals are counted.

    Attributes:
        method: the method.
        tried: budgets tried.
        refused: number of refused budgets.
        refusals: the refused budgets, each with the method's error.
    """

    method: Compressor
    tried: int = 0
    refused: int = 0
    refusals: dict[str, BudgetError] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the method's class."""
        return type(self.method).__name__

    def attempt(self, budget: str, run: Callable[[], Any]) -> Any:
        """Call a function at a budget; return None if the method refuses the budget.

        Args:
            budget: description of the budget.
            run: function that calls the method.

        Raises:
            KVPressVideoError: any other error.
        """
        self.tried += 1
        try:
            return run()
        except WrongSlotsError:
            raise
        except BudgetError as error:
            self.refused += 1
            self.refusals[budget] = error
            return None

    def compress(self, entries: Entries, keep: int) -> Entries | None:
        """Compress entries, with the inputs that the method declares, to `keep` per row and head; return None if the
        method refuses.
        """
        given = as_declared(entries, self.method.needs)
        kept: Entries | None = self.attempt(f"{keep} of {len(entries)}", lambda: self.method.compress(given, keep))
        return kept


@dataclass(frozen=True)
class Trial:
    """A rule, and the code that checks it.

    Attributes:
        rule: what a correct method does, completing "The method …".
        run: checks it; raises `Broken`, or an error of the package caused by the method.
        may_refuse: whether a method may refuse every budget of the trial.
        advice: whether a violation is only a remark.
        applies: whether the rule applies to a method; by default to those that evict.
    """

    rule: str
    run: Callable[[Subject], None]
    may_refuse: bool = False
    advice: bool = False
    applies: Callable[[Compressor], bool] = evicts

    def outcome(self, method: Compressor) -> Outcome:
        """Check the rule on a method."""
        subject = Subject(method)
        wrong = _reason(self.run, subject)
        if not wrong and not self.may_refuse and subject.tried and subject.refused == subject.tried:
            budget, error = next(iter(subject.refusals.items()))
            wrong = f"{subject.name} refuses every budget that was tried, such as {budget}: {error}"
        return Outcome(self, wrong, {budget: str(error) for budget, error in subject.refusals.items()})


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        trial: the trial.
        wrong: what is wrong, in one sentence; empty if the rule holds.
        refusals: budgets that the method refused, each with its reason.
    """

    trial: Trial
    wrong: str = ""
    refusals: dict[str, str] = field(default_factory=dict)


def _reason(run: Callable[[Subject], None], subject: Subject) -> str:
    try:
        run(subject)
    except Broken as error:
        return str(error)
    except KVPressVideoError as error:
        cause = error.__cause__
        return (
            f"{error}{'' if cause is None or isinstance(cause, KVPressVideoError) else _place(cause, subject.method)}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}{_place(error, subject.method)}"
    return ""


def _place(error: BaseException, method: Compressor) -> str:
    """Return the line of a method that led to an error; empty if none did."""
    own = getattr(sys.modules.get(type(method).__module__), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return f" ({own}, line {lines[-1]})" if lines else ""
