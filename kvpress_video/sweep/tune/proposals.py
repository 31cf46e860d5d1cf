"""Propose methods with settings, given the scores of earlier proposals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import SweepError
from .space import canonical, choices_of, preset_points

if TYPE_CHECKING:
    from optuna.trial import Trial

_TRIES = 100
"""Consecutive repeated draws after which no further proposals are assumed to exist."""


@dataclass(frozen=True)
class Proposal:
    """A method with settings to try.

    Attributes:
        method: its canonical text.
        trial: trial of Optuna.
    """

    method: str
    trial: Trial


class Proposals:
    """Proposals by Optuna's tree-structured Parzen estimator; every method's defaults and presets come first.

    A proposal that repeats an earlier one is replaced by random settings of the same method, or else by any method.
    Equal arguments and scores give equal proposals.

    Attributes:
        untuned: how many proposals are defaults and presets.
    """

    def __init__(self, methods: Sequence[str], seed: int) -> None:
        """Start with no scores.

        Args:
            methods: methods to choose from; settings given with them are fixed.
            seed: seed of the proposals.

        Raises:
            SweepError: Optuna is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            raise SweepError("Tuning needs Optuna: pip install 'kvpress-video[tune]'.") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.version: str = optuna.__version__
        self._failed = optuna.trial.TrialState.FAIL
        self._methods = {method: choices_of(method) for method in methods}
        self._tpe = optuna.samplers.TPESampler(seed=seed)
        self._draw = random.Random(seed)
        self._random = optuna.samplers.RandomSampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=self._tpe)
        self._seen: set[str] = set()
        for method in self._methods:
            for settings in ({}, *preset_points(method)):
                self._study.enqueue_trial({"method": method, **self._numbers(method, settings)})
        self.untuned = len(self._study.trials)

    def ask(self, count: int) -> list[Proposal]:
        """Propose new methods: the requested number, or all remaining ones."""
        found: list[Proposal] = []
        while len(found) < count and (new := self._new()):
            found.append(new)
        return found

    def tell(self, proposal: Proposal, score: float | None) -> None:
        """Record the score of a proposal, None if it failed."""
        if score is None:
            self._study.tell(proposal.trial, state=self._failed)
        else:
            self._study.tell(proposal.trial, score)

    def _new(self) -> Proposal | None:
        """Propose a method that was not proposed before; None if there seems to be none."""
        self._study.sampler = self._tpe
        for attempt in range(_TRIES):
            trial = self._study.ask()
            method = self._suggest(trial)
            if method not in self._seen:
                self._seen.add(method)
                return Proposal(method, trial)
            self._study.tell(trial, state=self._failed)
            if attempt < _TRIES // 2:
                self._study.enqueue_trial(self._others(trial.params["method"]))
            self._study.sampler = self._random
        return None

    def _suggest(self, trial: Trial) -> str:
        method = trial.suggest_categorical("method", list(self._methods))
        choices = self._methods[method]
        numbers = {
            name: trial.suggest_categorical(f"{method} {name}", list(range(len(values))))
            for name, values in choices.items()
        }
        return canonical(method, {name: choices[name][number] for name, number in numbers.items()})

    def _others(self, method: str) -> dict[str, Any]:
        """Draw random parameters for a method."""
        choices = self._methods[method].items()
        drawn = {f"{method} {name}": self._draw.randrange(len(values)) for name, values in choices}
        return {"method": method, **drawn}

    def _numbers(self, method: str, settings: dict[str, Any]) -> dict[str, int]:
        """Return Optuna's parameters of a method at some settings, the others at their defaults."""
        choices = self._methods[method].items()
        return {f"{method} {name}": values.index(settings[name]) if name in settings else 0 for name, values in choices}
