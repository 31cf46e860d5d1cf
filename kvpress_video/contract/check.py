"""`check_method()`: check a method against every rule of the contract, and report violations."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..compressor.base import Compressor
from ..compressor.registry import make_method
from ..errors import KVPressVideoError, MethodError
from .on_entries import ON_ENTRIES, lacking
from .on_models import FAMILIES, not_claimed, on_model
from .random_entries import unanswered
from .trial import Outcome, Trial


@dataclass(frozen=True, repr=False)
class MethodReport:
    """The result of `check_method()`; `print` shows it line by line.

    Attributes:
        method: name of the method's class.
        passed: the rules it follows, each completing "The method …".
        failed: mistakes, one sentence each; empty for a correct method.
        notes: remarks that are not mistakes: refused budgets, unsupported models.
    """

    method: str
    passed: tuple[str, ...]
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        mistakes = f"{len(self.failed)} mistake{'s' * (len(self.failed) > 1)}"
        verdict = f"makes {mistakes}" if self.failed else f"passes all {len(self.passed)} checks"
        shown = (("wrong", self.failed), ("note", self.notes), ("passed", () if self.failed else self.passed))
        lines = [f"{mark}: {text}" for mark, texts in shown for text in texts]
        return "\n  ".join([f"{self.method} {verdict}", *lines])

    __repr__ = __str__


def check_method(method: str | Compressor, **settings: Any) -> MethodReport:
    """Check a method against the contract of all methods, in a few seconds on the CPU.

    The method runs on random entries (exact counts, budgets below a frame, one image, later passes, half precision,
    rows of a batch) and on the bundled models (everything kept, ratios, chunks, a padded batch, both treatments of
    positions, embeddings if it works on them, streams). A method may refuse a budget by raising `BudgetError`; refusals
    are noted. A plug-in needs one line of test:

        def test_contract():
            kv.check_method(MyMethod())

    Args:
        method: an instance, a name, or `"name:setting=value,…"`.
        **settings: settings of a method given by name.

    Returns:
        The report, if the method passes.

    Raises:
        MethodError: the method is declared wrongly, or breaks rules: the message lists all of them.
        UnknownNameError: no installed method has that name.
    """
    made = _declared(method, settings)
    trials, notes = _trials(made)
    outcomes = [trial.outcome(made) for trial in trials]
    failed = _distinct(outcome.wrong for outcome in outcomes if outcome.wrong and not outcome.trial.advice)
    advice = _distinct(failed + [outcome.wrong for outcome in outcomes if outcome.wrong])[len(failed) :]
    report = MethodReport(
        type(made).__name__,
        tuple(outcome.trial.rule for outcome in outcomes if not outcome.wrong),
        tuple(failed),
        (*notes, *advice, *_refusals(outcomes)),
    )
    if failed:
        raise MethodError(str(report))
    return report


def _declared(method: str | Compressor, settings: dict[str, Any]) -> Compressor:
    if isinstance(method, str):
        return make_method(method, **settings)
    try:
        return make_method(method, **settings)
    except MethodError:
        raise
    except KVPressVideoError as error:
        raise MethodError(str(error)) from error


def _trials(method: Compressor) -> tuple[list[Trial], list[str]]:
    """Return the rules that apply to a method, and the reasons why some bundled models are skipped."""
    trials, notes = list(ON_ENTRIES), []
    if inputs := unanswered(method.needs):
        trials, notes = [], [f"not tried on random entries, which lack {', '.join(inputs)}"]
    elif reason := lacking(method):
        trials, notes = [], [f"not tried on random entries: {reason}"]
    for family in FAMILIES:
        if reason := not_claimed(family, method):
            notes.append(f"not tried on {family}: {reason}")
        else:
            trials += on_model(family)
    return [trial for trial in trials if trial.applies(method)], notes


def _refusals(outcomes: Iterable[Outcome]) -> list[str]:
    return _distinct(
        f"refuses budgets such as {budget}: {reason}"
        for outcome in outcomes
        if not outcome.wrong
        for budget, reason in outcome.refusals.items()
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    """Return the first message of each cause; messages that differ only in entries and numbers have the same cause."""
    found: dict[str, str] = {}
    for text in texts:
        cause = text.rpartition("to keep): ")[2].replace(" entry", " entries")
        found.setdefault(re.sub(r"[\d., ]*\d", "#", cause), text)
    return list(found.values())
