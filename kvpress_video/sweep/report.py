"""Tables of a sweep: rich for the terminal, Markdown and CSV for files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .rows import Failure, Row
from .statistics import Accuracy, Difference, accuracy, compare
from .tasks import UNCOMPRESSED, Cell

OVERALL = "overall"
COLUMNS = (
    *("method", "budget", "camera", "family", "accuracy", "low", "high", "questions", "clips", "entries", "ratio"),
    *("bytes", "against", "difference", "difference_low", "difference_high", "p", "error"),
)


@dataclass(frozen=True)
class Line:
    """One cell under one camera.

    Attributes:
        accuracies: per family, and `overall`.
        against: the method that it is compared with, at the same budget; the uncompressed cache at 100%.
        difference: to that on the same questions; None for itself, and where it was not run.
        entries: visual entries held per layer and KV head, mean over clips.
        ratio: visual entries held over visual tokens.
        bytes: held per sequence, mean over clips.
        clips: how many the cell was run on.
        error: why the cell was given up, if it was.
    """

    cell: Cell
    camera: str
    against: str
    accuracies: dict[str, Accuracy]
    difference: Difference | None
    entries: float
    ratio: float
    bytes: float
    clips: int
    error: str | None = None


def summarise(
    rows: Sequence[Row], failures: Sequence[Failure], cells: Sequence[Cell], against: str = UNCOMPRESSED
) -> list[Line]:
    """One line per camera and cell, in the order of the cells; cells that never ran have a line too.

    Args:
        rows, failures: of the sweep.
        cells: what it was to run.
        against: the method that all others are compared with.
    """
    cameras = list(dict.fromkeys(row.camera for row in rows)) or [""]
    errors = {failure.cell: failure.error for failure in failures}
    lines = []
    for camera in cameras:
        by_cell: dict[Cell, list[Row]] = {cell: [] for cell in cells}
        for row in rows:
            if row.camera == camera:
                by_cell.setdefault(row.cell, []).append(row)
        for cell, mine in by_cell.items():
            other = Cell(against, "100%" if against == UNCOMPRESSED else cell.budget)
            difference = _difference(mine, by_cell.get(other, [])) if cell != other else None
            lines.append(_line(cell, camera, mine, against, difference, errors.get(cell)))
    return lines


def tables(lines: Sequence[Line]) -> list[Table]:
    """A rich table per camera."""
    made = []
    for _, title, mine in _by_camera(lines):
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for name in _header(lines):
            table.add_column(name, justify="left" if name in ("method", "budget") else "right", no_wrap=True)
        for line in mine:
            if line.error is not None:
                table.add_row(line.cell.method, line.cell.budget, "[red]failed[/red]")
            else:
                table.add_row(*_texts(line, _families(lines)))
        made.append(table)
    return made


def notes(lines: Sequence[Line]) -> list[str]:
    """What has to be said under the tables: what the intervals are, and which cells failed and why."""
    said = [
        "Every video is compressed before its question is read.",
        "±: half the 95% interval, by clip; vs: paired on the same questions; entries: per layer and KV head",
    ]
    errors = {line.cell: line.error for line in lines if line.error is not None}
    return said + [f"{cell} failed: {error}" for cell, error in errors.items()]


def markdown(lines: Sequence[Line], title: str) -> str:
    """The tables and notes as Markdown."""
    header = _header(lines)
    parts = [f"# {title}"]
    for _, caption, mine in _by_camera(lines):
        body = [header, ["---"] * 2 + ["---:"] * (len(header) - 2)]
        for line in mine:
            failed = [line.cell.method, line.cell.budget, "failed", *[""] * (len(header) - 3)]
            body.append(_texts(line, _families(lines)) if line.error is None else failed)
        parts += [f"## {caption}", "\n".join("| " + " | ".join(cells) + " |" for cells in body)]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(lines))]) + "\n"


def summary_csv(lines: Iterable[Line]) -> str:
    """One record per cell, camera and family, `overall` included; the comparison is overall."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines:
        names = [line.cell.method, line.cell.budget, line.camera]
        if not line.accuracies:
            writer.writerow([*names, OVERALL, *[""] * (len(COLUMNS) - 5), line.error])
        held = [line.clips, f"{line.entries:.1f}", f"{line.ratio:.5f}", f"{line.bytes:.0f}"]
        for family, found in line.accuracies.items():
            gap = line.difference if family == OVERALL else None
            paired = _numbers(gap.mean, gap.low, gap.high, gap.p) if gap else [""] * 4
            share = _numbers(found.mean, found.low, found.high)
            writer.writerow([*names, family, *share, found.questions, *held, line.against, *paired, line.error])
    return text.getvalue()


def _numbers(*values: float) -> list[str]:
    return [f"{value:.4g}" for value in values]


def _line(
    cell: Cell, camera: str, rows: Sequence[Row], against: str, difference: Difference | None, error: str | None
) -> Line:
    families = list(dict.fromkeys(row.family for row in rows))
    groups = {family: [row for row in rows if row.family == family] for family in families} | {OVERALL: rows}
    accuracies = {
        name: accuracy([row.correct for row in group], [row.clip for row in group])
        for name, group in groups.items()
        if group
    }
    clips = {row.clip: row for row in rows}.values()
    if not clips:
        return Line(cell, camera, against, {}, None, 0, 0, 0, 0, error)
    return Line(
        cell,
        camera,
        against,
        accuracies,
        difference,
        fmean(fmean(row.entries) for row in clips),
        fmean(row.ratio for row in clips),
        fmean(row.bytes for row in clips),
        len(clips),
        error,
    )


def _difference(rows: Sequence[Row], others: Sequence[Row]) -> Difference | None:
    right = {_question(row): row.correct for row in others}
    left = {_question(row): row.correct for row in rows if _question(row) in right}
    return compare(left, right, {question: question[0] for question in left}) if left else None


def _question(row: Row) -> tuple[str, str, str]:
    return row.clip, row.prompt, row.expected


def _by_camera(lines: Sequence[Line]) -> Iterable[tuple[str, str, list[Line]]]:
    for camera in dict.fromkeys(line.camera for line in lines):
        mine = [line for line in lines if line.camera == camera]
        clips = max(line.clips for line in mine)
        questions = max((line.accuracies[OVERALL].questions for line in mine if line.accuracies), default=0)
        caption = (
            f"{camera.capitalize()} camera: {clips} clips, {questions} questions" if camera else "No clip finished"
        )
        yield camera, caption, mine


def _families(lines: Sequence[Line]) -> list[str]:
    return [name for name in dict.fromkeys(name for line in lines for name in line.accuracies) if name != OVERALL]


def _header(lines: Sequence[Line]) -> list[str]:
    return ["method", "budget", *_families(lines), OVERALL, f"vs {lines[0].against}", "entries", "held", "KiB"]


def _texts(line: Line, families: Sequence[str]) -> list[str]:
    shares = [_share(line.accuracies.get(family)) for family in [*families, OVERALL]]
    gap = "" if line.difference is None else f"{_short(line.difference.mean, '+')}±{_short(_half(line.difference))}"
    held = [f"{line.entries:.0f}", f"{line.ratio:.1%}", f"{line.bytes / 1024:.0f}"] if line.clips else [""] * 3
    return [line.cell.method, line.cell.budget, *shares, gap, *held]


def _share(found: Accuracy | None) -> str:
    return "" if found is None else f"{_short(found.mean)}±{_short(_half(found))}"


def _half(found: Accuracy | Difference) -> float:
    return (found.high - found.low) / 2


def _short(value: float, sign: str = "") -> str:
    """Two decimals without the leading zero."""
    return f"{value:{sign}.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:{sign}.2f}"
