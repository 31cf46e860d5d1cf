"""The rows of a sweep as the gate compares them, and the conditions in which two sweeps differ."""

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
    *("stage", "prefill", "positions", "labels", "visual_tokens", "frames", "fps", "pixels", "dtype", "attention"),
    "device",
)
_BYTES_TOLERANCE = 0.01
"""Caches whose bytes differ by a larger fraction are reported."""


@dataclass(frozen=True)
class SweepData:
    """The contents of a sweep's store.

    Attributes:
        name: name of the sweep in messages.
        rows: as in `Store`.
        failures: as in `Store`.
        plan: as in `Store`.
    """

    name: str
    rows: Sequence[Row]
    failures: Sequence[Failure] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> SweepData:
        """Read the sweep in a folder.

        Raises:
            SweepError: the folder contains no sweep.
        """
        with Store(folder) as store:
            return cls(str(folder), store.rows(), store.failures(), store.plan)

    def only(self, methods: Collection[str], budgets: Collection[str]) -> SweepData:
        """Select some methods and budgets, or all if none are named."""

        def wanted(cell: Cell) -> bool:
            return (not methods or cell.name in methods) and (not budgets or cell.budget in budgets)

        rows = [row for row in self.rows if wanted(row.cell)]
        return SweepData(self.name, rows, [failure for failure in self.failures if wanted(failure.cell)], self.plan)

    @property
    def title(self) -> str:
        """The name, and the revision of the code that answered."""
        revisions = dict.fromkeys(row.measured.revision for row in self.rows if row.measured.revision)
        short = [name[:10] + dash + dirty for name, dash, dirty in (revision.partition("-") for revision in revisions)]
        return f"{self.name} ({', '.join(short)})" if short else self.name


def by_question(rows: Iterable[Row], value: Callable[[Row], Any] = lambda row: row) -> dict[tuple[Cell, str, str], Any]:
    """Index a value of every row, by default the row itself, by cell, clip and question."""
    return {(row.cell, row.clip, row.answered.question): value(row) for row in rows}


def check_same_questions(base: SweepData, new: SweepData) -> None:
    """Check that shared questions have the same prompt, correct answer, task, category and unit in both sweeps.

    Raises:
        SweepError: a shared question differs.
    """
    before, after = by_question(base.rows), by_question(new.rows)
    for name in _IDENTITY:
        changed = [
            key for key in before if key in after and len({getattr(s[key].answered, name) for s in (before, after)}) > 1
        ]
        for key in changed[:1]:
            cell, clip, question = key
            old, now = (getattr(sweep[key].answered, name) for sweep in (before, after))
            raise SweepError(
                f"The {name} of {len(changed)} questions is not the same in {base.name} and {new.name}, so they are "
                f"different questions. {cell}, clip {clip}, question {question}: {old!r} and {now!r}. Run both sweeps "
                "with the same benchmark and prompts."
            )


def condition_changes(base: SweepData, new: SweepData) -> list[str]:
    """List the conditions, apart from the code, that differ between two sweeps: `"frames: 32 → 16"`."""
    return [*_setup_changes(base, new), *_measured_changes(base, new)]


def _setup_changes(base: SweepData, new: SweepData) -> list[str]:
    before, after = (
        {name: value for name, value in sweep.plan.get("setup", {}).items() if name not in _CONDITIONS}
        for sweep in (base, new)
    )
    return _changes(before, after)


def _measured_changes(base: SweepData, new: SweepData) -> list[str]:
    before, after = ({(row.cell, row.clip): row.measured for row in sweep.rows} for sweep in (base, new))
    shared = [key for key in before if key in after]
    conditions = Counter(
        change for key in shared for change in _changes(_conditions(before[key]), _conditions(after[key]))
    )
    settings = dict.fromkeys(
        f"setting {change}"
        for key in shared
        for change in _changes(_settings(key[0], before[key]), _settings(key[0], after[key]))
    )
    held: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for key in shared:
        for place, measured in enumerate((before, after)):
            held[str(key[0])][place] += measured[key].report.bytes
    part = f"of {len(shared)} cells × clips"
    return [
        *(change if count == len(shared) else f"{change} ({count} {part})" for change, count in conditions.items()),
        *settings,
        *(
            f"{name} holds {now / old - 1:+.0%} bytes"
            for name, (old, now) in held.items()
            if abs(now - old) > _BYTES_TOLERANCE * old
        ),
    ]


def _conditions(measured: Measured) -> dict[str, Any]:
    columns = measured.as_dict()
    return {name: columns[name] for name in _CONDITIONS} | measured.versions


def _settings(cell: Cell, measured: Measured) -> dict[str, Any]:
    return {f"{name} of {cell.name}": value for name, value in measured.report.settings.items()}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {before.get(name, 'not set')} → {after.get(name, 'not set')}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
