"""The page: everything that a sweep found out in one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compressor.registry import UNCOMPRESSED
from ..sweep.stats.summary import OVERALL
from ..utils.files import atomic_write
from ..utils.formatting import format_bytes, format_seconds
from .curves import curves
from .heatmap import at_budget, heatmap
from .overlay import draw_overlay
from .pareto import MEMORY, TIME, pareto
from .ranking import Ranking, budgets_of, compressed, finished, groups_of, nearest_budget, rank
from .retained import Overlay
from .style import Inliner, Style, save, styles

if TYPE_CHECKING:
    from ..sweep.results.records import Failure
    from ..sweep.stats.inference import Difference, Interval
    from ..sweep.stats.summary import SummaryRow

FILE = "report.html"


@dataclass(frozen=True)
class Card:
    """What the first view says of one budget: one verdict per group.

    Attributes:
        budget: as asked.
        ratio: the share that was kept.
        near: whether the first sentence is about it.
        verdicts: of the groups in which something was finished.
    """

    budget: str
    ratio: float
    near: bool
    verdicts: tuple[Ranking, ...]

    @property
    def winners(self) -> dict[str, list[Ranking]]:
        """The verdicts by the best method."""
        found: dict[str, list[Ranking]] = {}
        for each in self.verdicts:
            found.setdefault(each.best.method, []).append(each)
        return found

    @property
    def wholes(self) -> list[SummaryRow]:
        """The full cache in each group, where it was run."""
        return [each.whole for each in self.verdicts if each.whole]


@dataclass(frozen=True)
class Section:
    """One model on one benchmark; figures are SVG text.

    Attributes:
        model, benchmark: as cells spell them.
        cards: largest budget first.
        groups, tasks: in order; `overall` is not among the tasks.
        looks: of the methods that are here.
        lines: all of them.
        curves: one figure per group.
        pareto: a pair of figures per group.
        heatmaps: figures per budget, one per group.
        open: the budget whose heatmaps show at first.
    """

    model: str
    benchmark: str
    cards: tuple[Card, ...]
    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    looks: Mapping[str, Style]
    lines: tuple[SummaryRow, ...]
    curves: tuple[str, ...]
    pareto: tuple[str, ...]
    heatmaps: Mapping[str, Sequence[str]]
    open: str | None

    @property
    def lead(self) -> Card | None:
        """The card that the first sentence is about."""
        return next((card for card in self.cards if card.near), None)

    @property
    def questions(self) -> int:
        """Most that any line answered, added up over groups."""
        return self._most("questions")

    @property
    def clips(self) -> int:
        """As `questions`."""
        return self._most("clips")

    def _most(self, what: str) -> int:
        return sum(max(getattr(line, what) for line in self.lines if line.group == group)
                   for group in groups_of(self.lines))  # fmt: skip


def write_report(
    folder_or_file: str | Path,
    lines: Sequence[SummaryRow],
    *,
    title: str,
    facts: Mapping[str, Any] | None = None,
    failures: Sequence[Failure] = (),
    overlays: Sequence[Overlay] = (),
    rivals: Sequence[SummaryRow] = (),
) -> Path:
    """Write the page, whole or not at all.

    Args:
        folder_or_file: where a file without the suffix `.html` or `.htm` means a folder, for `report.html`.
        lines: of the sweep.
        title: of the page.
        facts: where the figures come from: versions, device, settings.
        failures: of the sweep.
        overlays: to be shown.
        rivals: lines `against` the best ones, from `rank.rivals`: with them the page says what is a tie.

    Returns:
        The file.
    """
    path = Path(folder_or_file)
    file = path if path.suffix.lower() in (".html", ".htm") else path / FILE
    text = render(lines, title=title, facts=facts or {}, failures=failures, overlays=overlays, rivals=rivals)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return file


def write_overlay(overlay: Overlay, file: str | Path) -> Path:
    """Write an overlay alone, whole or not at all.

    Args:
        overlay: from `look`.
        file: `.png`, `.svg` or `.pdf`; or `.html` for a page.

    Raises:
        UnknownNameError: it has another suffix.
    """
    path = Path(file)
    if path.suffix.lower() == ".html":
        return write_report(path, (), title=overlay.title, overlays=[overlay])
    return save(draw_overlay(overlay), path)


def render(
    lines: Sequence[SummaryRow],
    *,
    title: str,
    facts: Mapping[str, Any],
    failures: Sequence[Failure],
    overlays: Sequence[Overlay],
    rivals: Sequence[SummaryRow],
) -> str:
    """The page as text; arguments as in `write_report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kvpress_video.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        share=_share, interval=_interval, gap=_gap, size=_known(format_bytes), seconds=_known(format_seconds),
        percent=_known(_percent), whole=_known("{:.0f}".format), plain=_plain, half=_half, chance=_chance
    )  # fmt: skip
    inline, looks = Inliner(), styles(line.method for line in lines)
    sides = dict.fromkeys((line.model, line.benchmark) for line in lines)
    sections = [
        _section([line for line in lines if (line.model, line.benchmark) == side], rivals, looks, inline)
        for side in sides
    ]
    return environment.get_template("report.html.j2").render(
        title=title,
        sections=sections,
        facts=facts,
        failures=_grouped(failures),
        overlays=[inline(draw_overlay(overlay), f"Retained patches of {overlay.title}") for overlay in overlays],
        overall=OVERALL,
        uncompressed=UNCOMPRESSED,
        against=next((line.against for line in lines), UNCOMPRESSED),
        paired=bool(rivals),
    )


def _section(
    lines: Sequence[SummaryRow], rivals: Sequence[SummaryRow], looks: Mapping[str, Style], inline: Inliner
) -> Section:
    budgets = budgets_of(lines)
    near = nearest_budget(budgets)
    done = finished(lines)
    groups = groups_of(done)
    by_group = {group: [line for line in done if line.group == group] for group in groups}
    cards = tuple(
        Card(
            budget,
            ratio,
            budget == near,
            tuple(found for group in groups if (found := rank(lines, group, budget, rivals))),
        )
        for budget, ratio in budgets.items()
    )
    names = dict.fromkeys(line.method for line in compressed(lines))
    tasks = dict.fromkeys(task for line in done for task in line.accuracies if task != OVERALL)
    return Section(
        model=lines[0].model,
        benchmark=lines[0].benchmark,
        cards=cards,
        groups=tuple(groups),
        tasks=tuple(tasks) if len(tasks) > 1 else (),
        looks={name: looks[name] for name in names},
        lines=tuple(lines),
        curves=tuple(inline(curves(mine, looks), f"Accuracy by budget {group}") for group, mine in by_group.items()),
        pareto=tuple(
            inline(pareto(mine, looks, (cost,)), f"Accuracy by {cost.name} {group}")
            for group, mine in by_group.items()
            for cost in (MEMORY, TIME)
        ),
        heatmaps={
            budget: [
                inline(heatmap(at_budget(mine, budget)), f"Accuracy by method and task at {budget} {group}")
                for group, mine in by_group.items()
                if any(line.budget == budget for line in compressed(mine))
            ]
            for budget in budgets
        },
        open=near,
    )


def _grouped(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """One record per cell and error, with the clips that it struck."""
    found: dict[tuple[Any, str], list[str]] = {}
    for failure in failures:
        found.setdefault((failure.cell, failure.error), []).append(failure.clip)
    return [{"cell": cell, "error": error, "clips": clips} for (cell, error), clips in found.items()]


def _known(spell: Any) -> Any:
    """Nothing for what was not measured."""
    return lambda value: "–" if value is None or math.isnan(value) else spell(value)


def _percent(value: float) -> str:
    return f"{value:.1%}" if value < 0.0995 else f"{value:.0%}"


def _share(value: float) -> str:
    return f"{value:.2f}"


def _half(found: Interval) -> str:
    return f"±{(found.high - found.low) / 2:.2f}"


def _interval(found: Interval) -> str:
    return f"{found.low:.2f} to {found.high:.2f}"


def _gap(found: Difference) -> str:
    return f"{found.mean:+.2f}".replace("-", "−").replace("−0.00", "+0.00")


def _chance(found: Difference) -> str:
    return "< 0.001" if found.p < 0.001 else f"{found.p:.2g}"


def _plain(value: Any) -> str:
    """Nested facts in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple, set)):
        return ", ".join(map(_plain, value))
    return "not set" if value is None else str(value)
