"""Publish a sweep: write its tables and figures into the repository, and an excerpt into the README.

`python -m kvpress_video.benchmarks.publishing.sweep demo` after `make demo`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.errors import BenchmarkError
from kvpress_video.report import draw_curves
from kvpress_video.report.findings import Findings
from kvpress_video.report.ranking import accuracy_of, budgets_of, finished
from kvpress_video.sweep.results.export import encode, write
from kvpress_video.sweep.stats.summary import SummaryRow, records
from kvpress_video.sweep.stats.text import markdown

SHOWN = ("standby-novelty", "infinipot-v", "tar", "standby", "average-pooling", "snapkv", "recent", "random")
RIVALS = ("infinipot-v", "recent", "random")
BRIEF = (("tar", "standby-novelty", "infinipot-v", "snapkv", "random"), ("25%", "12.5%", "6.25%"))
"""Methods and budgets of the README's table."""


def table(lines: Sequence[SummaryRow]) -> str:
    """Format overall accuracy: a row per method, a column per group and budget, the best of each column in bold."""
    found = {(line.method, line.group, line.budget): f"{accuracy_of(line):.2f}" for line in finished(lines)}
    groups = sorted({group for _, group, _ in found}, reverse=True)
    budgets = budgets_of(lines)
    columns = [(group, budget) for group in groups for budget in budgets]
    methods = list(dict.fromkeys(line.method for line in lines))
    rivals = [method for method in methods if method != UNCOMPRESSED]
    best = {column: max(found.get((method, *column), "") for method in rivals) for column in columns}
    rows = [["method", *(f"{group} {budget}" for group, budget in columns)], ["---"] + ["---:"] * len(columns)]
    for method in methods:
        whole = {group: found.get((method, group, "100%"), "") for group in groups}
        texts = {column: found.get((method, *column), whole[column[0]]) for column in columns}
        rows.append(
            [method, *(f"**{text}**" if text == best[column] and text and method in rivals else text
                       for column, text in texts.items())]
        )  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def brief(lines: Sequence[SummaryRow]) -> str:
    """Format overall accuracy of a few methods and budgets, with the groups in one cell: `.92 / .97`."""
    found = {(line.method, line.budget, line.group): f"{accuracy_of(line):.2f}" for line in finished(lines)}
    groups = sorted({group for *_, group in found}, reverse=True)
    methods, budgets = BRIEF
    rows = [[" / ".join(groups), *budgets], ["---"] + ["---:"] * len(budgets)]
    for method in methods:
        cells = [" / ".join(found.get((method, budget, group), "–") for group in groups) for budget in budgets]
        rows.append([f"`{method}`", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def fill(page: str, name: str, text: str) -> str:
    """Replace the text between the marks of this name.

    Raises:
        BenchmarkError: the page has no such marks.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise BenchmarkError(f"The page has no place for {name!r}: put {begin.strip()} and {end} into it.")
    return before + begin + text + end + after


def fill_files(texts: Mapping[Path, Mapping[str, str]]) -> None:
    """Replace the text between marks in several files.

    Raises:
        BenchmarkError: a file has no such marks; then no file is changed.
    """
    pages = {file: file.read_text() for file in texts}
    for file, named in texts.items():
        for name, text in named.items():
            pages[file] = fill(pages[file], name, text)
    for file, page in pages.items():
        write(file, page.encode())


def write_results(findings: Findings, results: Path) -> None:
    """Write the summary of a sweep and its plan into a folder."""
    write(results / "summary.csv", encode(records(findings.summary), "csv"))
    write(results / "sweep.json", (json.dumps(findings.plan, indent=1) + "\n").encode())


def write_against(rival: str, sweep: Path, results: Path, title: str) -> None:
    """Write the table of a sweep in which every method is compared with one of them into a folder."""
    lines = Findings.read(sweep, rival).summary
    write(results / f"against-{rival}.md", markdown(lines, f"{title}, against {rival}").encode())


def publish(sweep: Path, results: Path, picture: Path, page: Path, readme: Path) -> None:
    """Write the repository's files about a sweep.

    Args:
        sweep: folder of the sweep.
        results: folder for its tables, against the full cache and against each of `RIVALS`, and its plan.
        picture: file for the figure: accuracy against budget of the methods in `SHOWN`.
        page, readme: files whose tables are replaced; the README gets an excerpt.
    """
    findings = Findings.read(sweep)
    write_results(findings, results)
    write(results / "table.md", markdown(findings.summary, "Sweep").encode())
    for rival in RIVALS:
        write_against(rival, sweep, results, "Sweep")
    draw_curves([line for line in findings.summary if line.method in (*SHOWN, UNCOMPRESSED)], picture)
    fill_files({page: {"results": table(findings.summary)}, readme: {"results": brief(findings.summary)}})


def main() -> None:
    """Publish the sweep named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path, help="folder of a finished sweep")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/demo"))
    parser.add_argument("--picture", type=Path, default=Path("docs/accuracy.svg"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    publish(options.sweep, options.results, options.picture, options.page, options.readme)


if __name__ == "__main__":
    main()
