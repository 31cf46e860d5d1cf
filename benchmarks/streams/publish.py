"""Publish the results of streams: the tables of `docs/streams.md`, and its figure.

`python -m kvpress_video.benchmarks.streams.publish`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.report.axes import accuracy_axis
from kvpress_video.report.style import assign_styles, drawing, save
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.formatting import interval, short
from kvpress_video.sweep.stats.clustered import PairedScores
from kvpress_video.sweep.stats.inference import Difference, Interval, accuracy, compare

from ..publishing.sweep import fill
from .accuracy import COLUMNS, METHODS
from .endless import TRAINED, USUAL_DTYPE

REFERENCE = "infinipot-v"
CAMERAS = ("still", "moving")
SPREAD = 0.025
"""Fraction of a budget between the points of two methods, so that their intervals can be seen."""


class Question(NamedTuple):
    """A question of a clip: index in the answers of the row, column, and camera of the clip."""

    clip: str
    number: int
    column: str
    camera: str


@dataclass(frozen=True)
class Answered:
    """Correct and wrong answers of every cell.

    Attributes:
        cells: right or wrong by question.
        errors: error of each cell that could not be run.
    """

    cells: dict[Cell, dict[Question, bool]]
    errors: dict[Cell, str]

    @classmethod
    def read(cls, *results: dict[str, Any], order: Sequence[str] = ()) -> Answered:
        """Read results of `accuracy` on the same clips.

        Args:
            *results: the results, each of other methods.
            order: methods that come first, in this order; the others follow as their rows do.
        """
        asked = {
            clip["clip"]: [
                Question(clip["clip"], number, result["columns"][family], clip["camera"])
                for number, (family, *_) in enumerate(clip["questions"])
            ]
            for result in results
            for clip in result["clips"]
        }
        places = {method: place for place, method in enumerate(order)}
        rows = [row for result in results for row in result["rows"]]
        cells: dict[Cell, dict[Question, bool]] = {}
        errors: dict[Cell, str] = {}
        for row in sorted(rows, key=lambda row: places.get(row["method"], len(places))):
            cell = Cell(row["method"], row["budget"])
            if "error" in row:
                errors[cell] = row["error"]
            else:
                cells.setdefault(cell, {}).update(zip(asked[row["clip"]], row["right"], strict=True))
        return cls(cells, errors)

    @property
    def methods(self) -> list[str]:
        """Methods in order of appearance."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def budgets(self) -> list[str]:
        """Budgets in order of appearance, without that of the uncompressed cache."""
        return list(dict.fromkeys(cell.budget for cell in self.cells if cell.method != UNCOMPRESSED))

    def of(self, method: str, budget: str, column: str, cameras: Sequence[str] = CAMERAS) -> dict[Question, bool]:
        """Right or wrong by question, for one column; empty if the cell was not run."""
        found = self.cells.get(Cell(method, "100%" if method == UNCOMPRESSED else budget), {})
        return {asked: right for asked, right in found.items() if asked.column == column and asked.camera in cameras}

    def accuracy(self, method: str, budget: str, column: str, cameras: Sequence[str] = CAMERAS) -> Interval | None:
        """Accuracy of a cell, None if it was not run."""
        found = self.of(method, budget, column, cameras)
        return accuracy(list(found.values()), [asked.clip for asked in found]) if found else None

    def difference(self, method: str, budget: str, column: str) -> Difference | None:
        """Paired difference to the reference over both cameras; None if either was not run."""
        left, right = (self.of(name, budget, column) for name in (method, REFERENCE))
        return compare(PairedScores.of(left, right, {asked: asked.clip for asked in left})) if left and right else None


def accuracies(answered: Answered, column: str) -> str:
    """Table of accuracies over both cameras, with 95% intervals; the best of each budget in bold."""
    rows = [["method", *answered.budgets]]
    compressed = [method for method in answered.methods if method != UNCOMPRESSED]
    best = {
        budget: max(found.mean for method in compressed if (found := answered.accuracy(method, budget, column)))
        for budget in answered.budgets
    }
    for method in answered.methods:
        cells = []
        for budget in answered.budgets:
            found = answered.accuracy(method, budget, column)
            mark = "**" if found and method != UNCOMPRESSED and found.mean == best[budget] else ""
            cells.append(_marked(found, mark))
        rows.append([_short(method), *cells])
    return _table(rows)


def by_camera(answered: Answered, column: str) -> str:
    """Table of accuracies for each camera."""
    rows = [["still / moving", *answered.budgets]]
    for method in answered.methods:
        alone = [
            [answered.accuracy(method, budget, column, [camera]) for camera in CAMERAS] for budget in answered.budgets
        ]
        rows.append(
            [_short(method), *(" / ".join(short(part.mean) for part in parts if part) or "–" for parts in alone)]
        )
    return _table(rows)


def differences(answered: Answered, column: str) -> str:
    """Table of paired differences to the reference, with 95% intervals; bold after Bonferroni's correction."""
    rivals = [method for method in answered.methods if method not in (REFERENCE, UNCOMPRESSED)]
    comparisons = len(rivals) * len(answered.budgets)
    rows = [[f"against {REFERENCE}", *answered.budgets]]
    for method in rivals:
        cells = []
        for budget in answered.budgets:
            gap = answered.difference(method, budget, column)
            mark = "**" if gap and gap.p * comparisons < 0.05 else ""
            cells.append(_marked(gap, mark, "+"))
        rows.append([_short(method), *cells])
    return _table(rows)


def memory(rows: Sequence[dict[str, Any]]) -> str:
    """Table of the cache (KiB) and the process (MiB) of each stream."""
    names = ["method", "camera", "frames", "of video", "entries", "cache", "peak", "buffers", "process"]
    table = [names]
    for row in rows:
        seen = [f"{row['frames']:,}", f"{row['frames'] / 7200:.1f} h", f"{row['entries']:,}"]
        held = [f"{row[name] / 1024:,.0f} KiB" for name in ("bytes", "peak_bytes", "reserved_bytes")]
        table.append([_stream(row), row["camera"], *seen, *held, f"{row['rss'] / 2**20:.0f} MiB"])
    return _table(table)


def work(rows: Sequence[dict[str, Any]]) -> str:
    """Table of speed, highest position and recall of each stream."""
    names = ["method", "camera", "frames", "frames/s", "ms per question", "positions", "first minute", "in view"]
    table = [names]
    for row in rows:
        cost = [f"{row['frames']:,}", f"{row['frames_per_second']:.0f}", f"{row['ask_ms']:.0f}"]
        reach = f"{row['highest_position']} of {row['position_limit']}"
        right = [f"{row['right'][topic]} of {row['asked'][topic]}" for topic in ("early", "in view")]
        table.append([_stream(row), row["camera"], *cost, reach, *right])
    return _table(table)


def origin(made: Iterable[dict[str, Any]]) -> str:
    """List of the machines, versions and revisions behind the figures."""
    lines = []
    for found in made:
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        lines.append(f"{found['machine']}; {versions}; revision {found['revision'] or 'unknown'}.\n")
    return "\n".join(dict.fromkeys(lines))


def origins(results: Sequence[dict[str, Any]]) -> str:
    """List the methods of each result with their machine, versions and revision."""
    return "\n".join(f"{', '.join(map(_short, made['settings']))}: {origin([made])}" for made in results)


def draw(answered: Answered, picture: Path) -> None:
    """Draw accuracy against budget with intervals, both cameras together: memory on the left, the present on the right.

    Args:
        answered: right and wrong answers.
        picture: file to write, in the format of its suffix (svg, png, pdf).
    """
    from matplotlib.figure import Figure

    styles, budgets = assign_styles(map(_short, answered.methods)), answered.budgets
    with drawing():
        figure = Figure(figsize=(11.5, 5), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, column, title in zip(
            panels,
            ("memory", "present"),
            ("memory: the first quarter of the stream", "present: where is it now?"),
            strict=True,
        ):
            for place, method in enumerate(answered.methods):
                shift = 1 + SPREAD * (place - len(answered.methods) / 2)
                found = {int(b) * shift: part for b in budgets if (part := answered.accuracy(method, b, column))}
                name, style = _short(method), styles[_short(method)]
                axes.vlines(list(found), [part.low for part in found.values()], [part.high for part in found.values()],
                            color=style.colour, linewidth=0.9, alpha=0.5)  # fmt: skip
                axes.plot(list(found), [part.mean for part in found.values()], color=style.colour, marker=style.marker,
                          linestyle=style.line, linewidth=1.3, markersize=5, label=name)  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks([int(budget) for budget in budgets], budgets)
            axes.minorticks_off()
            axes.set_xlabel("visual entries per layer and head")
            axes.set_title(title)
            accuracy_axis(axes)
        panels[1].set_ylabel("")
        panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save(figure, picture)


def _stream(row: dict[str, Any]) -> str:
    """Name a stream by its method, and by its position limit and dtype if they are not the defaults."""
    limit, dtype = row["position_limit"], row.get("dtype", USUAL_DTYPE)
    unusual = ([] if limit == TRAINED else [f"{limit:,} positions"]) + ([] if dtype == USUAL_DTYPE else [dtype])
    return ", ".join([str(row["method"]), *unusual])


def _marked(found: Interval | None, mark: str, sign: str = "") -> str:
    """Format a value, optionally in bold, with its interval: `**.81** [.76, .86]`; a dash for None."""
    value, _, bounds = interval(found, sign).partition(" ")
    return f"{mark}{value}{mark} {bounds}" if value else "–"


def _short(method: str) -> str:
    return method.partition(":")[0]


def _table(rows: Iterable[Sequence[str]]) -> str:
    header, *body = rows
    ruled = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "".join("| " + " | ".join(row) + " |\n" for row in ruled)


def main() -> None:
    """Write the tables and the figure."""
    parser = argparse.ArgumentParser(description="Tables and figure of docs/streams.md.")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/streams.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/stream-accuracy.svg"))
    options = parser.parse_args()
    results = [json.loads(file.read_text()) for file in sorted(options.results.glob("stream-accuracy*.json"))]
    streams = json.loads((options.results / "endless.json").read_text())["rows"]
    answered = Answered.read(*results, order=METHODS)
    texts = {"endless memory": memory(streams), "endless work": work(streams)}
    texts |= {"endless origin": origin(streams), "accuracy origin": origins(results)}
    for column in dict.fromkeys(COLUMNS.values()):
        texts |= {column: accuracies(answered, column), f"{column} by camera": by_camera(answered, column)}
        texts[f"{column} differences"] = differences(answered, column)
    page = options.page.read_text()
    for name, text in texts.items():
        page = fill(page, name, text)
    options.page.write_text(page)
    draw(answered, options.picture)


if __name__ == "__main__":
    main()
