"""The two sweeps of a comparison, and what makes them less than comparable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import SweepError
from ..cells import Cell
from ..results.records import Failure, Measured, Row
from ..results.store import Store

_IDENTITY = ("prompt", "expected", "task", "category", "unit")
_CONDITIONS = (
    "stage",
    "prefill",
    "positions",
    "visual_tokens",
    "frames",
    "fps",
    "pixels",
    "dtype",
    "attention",
    "device",
)
_MORE = 0.01
"""Caches that differ by more than this share are named."""


@dataclass(frozen=True)
class SweepData:
    """A sweep, as its store holds it.

    Attributes:
        name: for messages.
        rows, failures, plan: as in `Store`.
    """

    name: str
    rows: Sequence[Row]
    failures: Sequence[Failure] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> SweepData:
        """From the folder of a sweep.

        Raises:
            SweepError: it holds none.
        """
        with Store(folder) as store:
            return cls(str(folder), store.rows(), store.failures(), store.plan)

    def only(self, methods: Collection[str], budgets: Collection[str]) -> SweepData:
        """What it has of some methods and budgets; of all where none are named."""

        def wanted(cell: Cell) -> bool:
            return (not methods or cell.method in methods) and (not budgets or cell.budget in budgets)

        rows = [row for row in self.rows if wanted(row.cell)]
        return SweepData(self.name, rows, [failure for failure in self.failures if wanted(failure.cell)], self.plan)

    @property
    def title(self) -> str:
        """Its name, and the revision of the code that answered."""
        revisions = dict.fromkeys(row.measured.revision for row in self.rows if row.measured.revision)
        short = [name[:10] + dash + dirty for name, dash, dirty in (revision.partition("-") for revision in revisions)]
        return f"{self.name} ({', '.join(short)})" if short else self.name


def by_question(rows: Iterable[Row], value: Callable[[Row], Any] = lambda row: row) -> dict[tuple[Cell, str, str], Any]:
    """Something of every row, by cell, clip and question."""
    return {(row.cell, row.clip, row.answered.question): value(row) for row in rows}


def check_same_questions(base: SweepData, new: SweepData) -> None:
    """Raises:
    SweepError: a question that both answered has another prompt, right answer, task, category or unit in one of them.
    """
    before, after = by_question(base.rows), by_question(new.rows)
    for name in _IDENTITY:
        changed = [
            key for key in before if key in after and len({getattr(s[key].answered, name) for s in (before, after)}) > 1
        ]
        for key in changed[:1]:
            cell, clip, question = key
            old, now = (getattr(side[key].answered, name) for side in (before, after))
            raise SweepError(
                f"The {name} of {len(changed)} questions is not the same in {base.name} and {new.name}, so they are "
                f"other questions. {cell}, clip {clip}, question {question}: {old!r} and {now!r}. Sweep both with the "
                "same benchmark and prompts."
            )


def unfair(base: SweepData, new: SweepData) -> list[str]:
    """What differs, beside the code, between two sweeps of the same questions: `"frames: 32 → 16"`."""
    return [*_setups(base, new), *_measurements(base, new)]


def _setups(base: SweepData, new: SweepData) -> list[str]:
    before, after = (
        {name: value for name, value in side.plan.get("setup", {}).items() if name not in _CONDITIONS}
        for side in (base, new)
    )
    return _changes(before, after)


def _measurements(base: SweepData, new: SweepData) -> list[str]:
    before, after = ({(row.cell, row.clip): row.measured for row in side.rows} for side in (base, new))
    shared = [key for key in before if key in after]
    conditions = Counter(what for key in shared for what in _changes(_conditions(before[key]), _conditions(after[key])))
    settings = dict.fromkeys(
        f"setting {what}"
        for key in shared
        for what in _changes(_settings(key[0], before[key]), _settings(key[0], after[key]))
    )
    held: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for key in shared:
        for place, side in enumerate((before, after)):
            held[str(key[0])][place] += side[key].report.bytes
    part = f"of {len(shared)} cells × clips"
    return [
        *(what if count == len(shared) else f"{what} ({count} {part})" for what, count in conditions.items()),
        *settings,
        *(
            f"{name} holds {now / old - 1:+.0%} bytes"
            for name, (old, now) in held.items()
            if abs(now - old) > _MORE * old
        ),
    ]


def _conditions(measured: Measured) -> dict[str, Any]:
    columns = measured.as_dict()
    return {name: columns[name] for name in _CONDITIONS} | measured.versions


def _settings(cell: Cell, measured: Measured) -> dict[str, Any]:
    return {f"{name} of {cell.method}": value for name, value in measured.report.settings.items()}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {before.get(name, 'not set')} → {after.get(name, 'not set')}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
