"""Write the measured figures into `docs/performance.md`.

Run `python -m kvpress_video.benchmarks.perf.results.page` after `kvpress-video bench --out` wrote a results file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...publishing.sweep import fill_files
from .. import BENCHMARKS
from .file import read
from .goals import TARGETS, Target
from .measurement import Figure
from .profile_files import profiles
from .tables import listed, ruled, shortened, spanning, verdict, with_unit, written

_COMMAND = "kvpress-video bench {} --out benchmarks/results/perf/NAME.json"


@dataclass(frozen=True)
class Results:
    """The contents of a results file.

    Attributes:
        head: machine, device, scale, versions.
        figures: in the file's order.
        revisions: revisions of the code that measured them.
    """

    head: dict[str, Any]
    figures: list[Figure]
    revisions: list[str]

    @classmethod
    def of(cls, file: Path) -> Results:
        """Read a file.

        Raises:
            BenchmarkError: it is not a results file.
        """
        head, rows = read(file)
        revisions = dict.fromkeys(shortened(str(row.get("revision"))) for row in rows)
        return cls(head, [Figure.of(row) for row in rows], list(revisions))

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return str(self.head["device"]).startswith("cuda")

    @property
    def name(self) -> str:
        """Device and scale."""
        return f"{self.head['device']}, {self.head['scale']}"


def joined(results: Sequence[Results]) -> list[Results]:
    """One `Results` per device and scale: a benchmark with other packages has a file of its own."""
    found: dict[str, Results] = {}
    for each in results:
        known = found.get(each.name)
        found[each.name] = replace(each, figures=known.figures + each.figures) if known else each
    return list(found.values())


def summary(results: Sequence[Results]) -> str:
    """A row per goal, with the measured figures and the floor of each machine."""
    header = [
        "benchmark",
        "figure",
        "target",
        *(column for each in results for column in (f"measured: {each.name}", "floor")),
    ]
    rows = [header if results else [*header, "measured"]]
    for asked in TARGETS:
        cells = [cell for each in results for cell in _cells(asked, asked.of(each.figures), each.gpu)]
        name = f"[{asked.benchmark}](#{asked.benchmark})"
        rows.append([name, asked.what, asked.goal, *(cells or ["not measured yet"])])
    return ruled(rows, right=range(3, len(rows[0])))


def _cells(asked: Target, figures: Sequence[Figure], gpu: bool) -> tuple[str, str]:
    if not figures:
        return "not measured", ""
    said = "target for GPUs only" if asked.gpu and not gpu else verdict(figures)
    floors = [one.floor for one in figures if one.floor is not None]
    unit = figures[0].unit
    return f"{spanning((one.measured for one in figures), unit)} ({said})", spanning(floors, unit) if floors else ""


def section(benchmark: str, results: Sequence[Results]) -> str:
    """All figures of a benchmark, machine by machine, and the goals that no GPU has measured."""
    parts = []
    for each in results:
        figures = [one for one in each.figures if one.benchmark == benchmark]
        if figures:
            parts.append(f"**{each.name}**\n")
            parts += [_table(group) for group in _grouped(figures)]
    if not any(one.benchmark == benchmark for each in results for one in each.figures):
        parts.append(f"Not measured yet: `{_COMMAND.format(benchmark)}`.\n")
    if lacking := _lacking_gpu(benchmark, results):
        said = "; ".join(f"{asked.what} ({asked.goal})" for asked in lacking)
        parts.append(f"Not measured on a GPU: {said}. Run `{_COMMAND.format(benchmark)}` on one.\n")
    return "\n".join(parts)


def _table(figures: Sequence[Figure]) -> str:
    """The figures of one kind: a row per first part of their cases, a column per rest."""
    one = figures[0]
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        name, _, rest = figure.case.partition(", ")
        cells.setdefault(name, {})[rest] = written(figure)
    columns = list(dict.fromkeys(rest for found in cells.values() for rest in found))
    rows = [["", *columns], *([name, *(found.get(rest, "") for rest in columns)] for name, found in cells.items())]
    lines = [f"{one.what}:\n", ruled(rows, right=range(1, len(rows[0])))]
    goals = dict.fromkeys(figure.goal for figure in figures if figure.goal is not None)
    for goal in goals:
        asked = [figure for figure in figures if figure.goal == goal]
        names = ", ".join(dict.fromkeys(figure.case.partition(", ")[0] for figure in asked))
        missed = [
            f"{figure.case} ({with_unit(f'{figure.measured:.3g}', one.unit)})" for figure in asked if not figure.met
        ]
        lines.append(
            f"Target{f' for {names}' if len(goals) > 1 else ''}: {with_unit(str(goal), one.unit)}. "
            + (f"Not reached: {'; '.join(missed)}.\n" if missed else "Reached.\n")
        )
    whys = dict.fromkeys(figure.floor_is for figure in figures if figure.floor_is)
    lines += [f"Floor: {why}.\n" for why in whys]
    return "\n".join(lines)


def _grouped(figures: Iterable[Figure]) -> list[list[Figure]]:
    groups: dict[str, list[Figure]] = {}
    for one in figures:
        groups.setdefault(one.what, []).append(one)
    return list(groups.values())


def _lacking_gpu(benchmark: str, results: Sequence[Results]) -> list[Target]:
    on_gpu = [one for each in results if each.gpu for one in each.figures]
    return [asked for asked in TARGETS if asked.benchmark == benchmark and asked.device and not asked.of(on_gpu)]


def machines(results: Sequence[Results]) -> str:
    """The machine, versions and revision of each results file."""
    if not results:
        return f"Nothing was measured yet: `{_COMMAND.format('').replace('  ', ' ')}`.\n"
    return listed(
        f"{each.name}: {each.head['machine']}; "
        + ", ".join(f"{package} {version}" for package, version in each.head["versions"].items())
        + f"; revision {', '.join(each.revisions)}"
        for each in results
    )


def texts(folder: Path) -> dict[str, str]:
    """Texts between the marks of the page, by mark.

    Args:
        folder: holds results files, and profiles in `profiles/`.

    Raises:
        BenchmarkError: a file in it is neither.
    """
    files = [Results.of(file) for file in sorted(folder.glob("*.json"))]
    results = joined(files)
    page = {"summary": summary(results), "machines": machines(files)}
    page |= {name: section(name, results) for name in BENCHMARKS}
    page["profiles"] = profiles(folder / "profiles")
    return page


def publish(folder: Path, page: Path) -> None:
    """Fill the marks of the page, and change nothing else.

    Raises:
        BenchmarkError: a results file is damaged, or a mark is missing.
    """
    fill_files({page: texts(folder)})


def main() -> None:
    """Publish the results in the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Publish performance.")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/perf"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    publish(options.results, options.page)


if __name__ == "__main__":
    main()
