"""The report page: one self-contained HTML file with all results of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..budget import UNCOMPRESSED
from ..sweep.stats.summary import OVERALL
from ..sweep.stats.text import uncompared
from ..utils.files import atomic_write, make_folder
from .curves import curves
from .filters import FILTERS
from .heatmap import at_budget, heatmap
from .overlay import draw_overlay
from .pareto import MEMORY, TIME, pareto
from .ranking import Ranking, budgets_of, compressed, finished, full_cache, groups_of, nearest_budget, rank
from .retained import Overlay
from .style import Inliner, Style, assign_styles, save

if TYPE_CHECKING:
    from ..sweep.results.records import Failure
    from ..sweep.stats.summary import SummaryRow

FILE = "report.html"


@dataclass(frozen=True)
class Card:
    """The card of one budget at the top of a section.

    Attributes:
        budget: budget as requested.
        ratio: mean fraction of visual entries kept.
        headline: whether the first sentence of the section is about this card.
        rankings: rankings of the groups in which a method finished.
    """

    budget: str
    ratio: float
    headline: bool
    rankings: tuple[Ranking, ...]

    @property
    def outcomes(self) -> dict[tuple[str, ...], list[Ranking]]:
        """The rankings by their best methods, several if they tie."""
        found: dict[tuple[str, ...], list[Ranking]] = {}
        for ranking in self.rankings:
            found.setdefault(ranking.tied, []).append(ranking)
        return found

    @property
    def full_caches(self) -> list[SummaryRow]:
        """The full cache of each group, if it was run."""
        return [ranking.full for ranking in self.rankings if ranking.full]


@dataclass(frozen=True)
class Section:
    """One model on one benchmark; figures are SVG text.

    Attributes:
        model, benchmark: as in the cells.
        cards: one per budget, largest first.
        groups: groups of clips, in order.
        tasks: tasks in order, without `overall`; empty if there is only one.
        styles: styles of the compressing methods.
        rows: rows of the summary.
        curves: one figure per group.
        pareto: two figures per group.
        heatmaps: one figure per group, by budget.
        open_budget: budget whose heatmaps are initially unfolded.
    """

    model: str
    benchmark: str
    cards: tuple[Card, ...]
    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    styles: Mapping[str, Style]
    rows: tuple[SummaryRow, ...]
    curves: tuple[str, ...]
    pareto: tuple[str, ...]
    heatmaps: Mapping[str, Sequence[str]]
    open_budget: str | None

    @property
    def headline(self) -> Card | None:
        """The card that the first sentence is about."""
        return next((card for card in self.cards if card.headline), None)

    @property
    def compared(self) -> bool:
        """Whether any row is compared with the reference."""
        return any(row.difference for row in self.rows)

    @property
    def retained(self) -> bool:
        """Whether any row is compared with the full cache."""
        return any(row.retention for row in self.rows)

    @property
    def full_cache(self) -> bool:
        """Whether the full cache was run."""
        return any(full_cache(self.rows, group) for group in self.groups)

    @property
    def uncompared(self) -> list[str]:
        """Notes on missing comparisons."""
        return uncompared(self.rows)

    @property
    def questions(self) -> int:
        """Maximum number of questions that any row answered, summed over groups."""
        return self._most("questions")

    @property
    def clips(self) -> int:
        """Maximum number of clips that any row covers, summed over groups."""
        return self._most("clips")

    def _most(self, attribute: str) -> int:
        return sum(max(getattr(row, attribute) for row in self.rows if row.group == group)
                   for group in groups_of(self.rows))  # fmt: skip


def write_report(
    folder_or_file: str | Path,
    summary: Sequence[SummaryRow],
    *,
    title: str,
    status: str = "",
    facts: Mapping[str, Any] | None = None,
    failures: Sequence[Failure] = (),
    overlays: Sequence[Overlay] = (),
    missing_overlays: Sequence[str] = (),
    against_best: Sequence[SummaryRow] = (),
) -> Path:
    """Write the page atomically.

    Args:
        folder_or_file: a file with the suffix `.html` or `.htm`, or a folder for `report.html`.
        summary: summary of the sweep.
        title: title of the page.
        status: sentence below the title, such as how much of the sweep has run.
        facts: provenance: versions, device, settings.
        failures: failures of the sweep.
        overlays: overlays to show.
        missing_overlays: sentences about those that could not be drawn.
        against_best: result of `compare_with_best`, with which the page marks ties.

    Returns:
        The file.
    """
    file = page_file(folder_or_file)
    text = render(
        summary,
        title=title,
        status=status,
        facts=facts or {},
        failures=failures,
        overlays=overlays,
        missing_overlays=missing_overlays,
        against_best=against_best,
    )
    make_folder(file.parent)
    with atomic_write(file) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
    return file


def page_file(folder_or_file: str | Path) -> Path:
    """Return the file of a page, which is `report.html` in a folder."""
    path = Path(folder_or_file)
    return path if path.suffix.lower() in (".html", ".htm") else path / FILE


def write_overlay(overlay: Overlay, file: str | Path) -> Path:
    """Write an overlay atomically, as a figure or a separate page.

    Args:
        overlay: result of `look`.
        file: `.png`, `.svg` or `.pdf`; or `.html` for a page.

    Raises:
        UnknownNameError: another suffix.
    """
    path = Path(file)
    if path.suffix.lower() == ".html":
        return write_report(path, (), title=overlay.title, overlays=[overlay])
    return save(draw_overlay(overlay), path)


def render(
    summary: Sequence[SummaryRow],
    *,
    title: str,
    status: str,
    facts: Mapping[str, Any],
    failures: Sequence[Failure],
    overlays: Sequence[Overlay],
    missing_overlays: Sequence[str],
    against_best: Sequence[SummaryRow],
) -> str:
    """Render the page as text; arguments as in `write_report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kvpress_video.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(FILTERS)
    inline, styles = Inliner(), assign_styles(row.method for row in summary)
    suites = dict.fromkeys((row.model, row.benchmark) for row in summary)
    sections = [
        _section([row for row in summary if (row.model, row.benchmark) == suite], against_best, styles, inline)
        for suite in suites
    ]
    return environment.get_template("report.html.j2").render(
        title=title,
        status=status,
        sections=sections,
        facts=facts,
        failures=_by_error(failures),
        overlays=[inline(draw_overlay(overlay), f"Retained patches of {overlay.title}") for overlay in overlays],
        missing_overlays=missing_overlays,
        overall=OVERALL,
        against=next((row.against for row in summary), UNCOMPRESSED),
        paired=bool(against_best),
    )


def _section(
    summary: Sequence[SummaryRow], against_best: Sequence[SummaryRow], styles: Mapping[str, Style], inline: Inliner
) -> Section:
    budgets = budgets_of(summary)
    headline = nearest_budget(budgets)
    done = finished(summary)
    groups = groups_of(done)
    by_group = {group: [row for row in done if row.group == group] for group in groups}
    cards = tuple(
        Card(
            budget,
            ratio,
            budget == headline,
            tuple(ranking for group in groups if (ranking := rank(summary, group, budget, against_best))),
        )
        for budget, ratio in budgets.items()
    )
    names = dict.fromkeys(row.method for row in compressed(summary))
    tasks = dict.fromkeys(task for row in done for task in row.accuracies if task != OVERALL)
    return Section(
        model=summary[0].model,
        benchmark=summary[0].benchmark,
        cards=cards,
        groups=tuple(groups),
        tasks=tuple(tasks) if len(tasks) > 1 else (),
        styles={name: styles[name] for name in names},
        rows=tuple(summary),
        curves=tuple(inline(curves(mine, styles), f"Accuracy by budget {group}") for group, mine in by_group.items()),
        pareto=tuple(
            inline(pareto(mine, styles, (cost,)), f"Accuracy by {cost.name} {group}")
            for group, mine in by_group.items()
            for cost in (MEMORY, TIME)
        ),
        heatmaps={
            budget: [
                inline(heatmap(at_budget(mine, budget)), f"Accuracy by method and task at {budget} {group}")
                for group, mine in by_group.items()
                if any(row.budget == budget for row in compressed(mine))
            ]
            for budget in budgets
        },
        open_budget=headline,
    )


def _by_error(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """Merge the failures of a cell with the same error into one record, with their clips."""
    found: dict[tuple[Any, str], list[str]] = {}
    for failure in failures:
        found.setdefault((failure.cell, failure.error), []).append(failure.clip)
    return [{"cell": cell, "error": error, "clips": clips} for (cell, error), clips in found.items()]
