"""The report: rankings, figures and the page."""

from __future__ import annotations

import argparse
import html
import io
import random
import re
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from summary_rows import BUDGETS, against, line, overlay, sweep, unmeasured, whole
from sweep_rows import MEASURED, remeasured

from kvpress_video.cli import report as report_command
from kvpress_video.errors import SweepError, UnknownNameError
from kvpress_video.report import compare_with_best, draw_curves, draw_heatmap, draw_pareto, write_report
from kvpress_video.report.curves import curves, spread
from kvpress_video.report.findings import best_methods, facts
from kvpress_video.report.heatmap import heatmap
from kvpress_video.report.page import write_overlay
from kvpress_video.report.pareto import MEMORY, TIME, pareto
from kvpress_video.report.ranking import budgets_of, nearest_budget, pareto_front, rank
from kvpress_video.report.style import COLOURS, assign_styles, drawing
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Answered, Done, Failure, Row
from kvpress_video.sweep.results.store import Store
from kvpress_video.sweep.stats.summary import SummaryRow, summarise

METHODS = [f"method-{number}" for number in range(20)]


def page_of(folder: Path, lines: list[SummaryRow], **options: Any) -> str:
    return write_report(folder, lines, **{"title": "A sweep", **options}).read_text(encoding="utf-8")


# --- who wins ---------------------------------------------------------------------------------------------------------


def test_the_highest_accuracy_wins_and_the_full_cache_takes_no_part() -> None:
    lines = [whole(), line("a", mean=0.5), line("b", mean=0.8), line("c", mean=0.7), line("b", "50%", 0.9)]
    found = rank(lines, "still", "25%")
    assert found is not None
    assert (found.best.method, found.second and found.second.method) == ("b", "c")
    assert found.full is lines[0]
    assert (found.gap, found.ties, found.clear) == (None, (), False)
    assert rank(lines, "moving", "25%") is None


@pytest.mark.parametrize(("half", "ties", "clear"), [(0.02, (), True), (0.12, ("c",), False), (0.4, ("c", "a"), False)])
def test_a_tie_is_a_paired_interval_that_covers_zero(half: float, ties: tuple[str, ...], clear: bool) -> None:
    lines = [line("a", mean=0.5), line("b", mean=0.8), line("c", mean=0.7)]
    found = rank(lines, "still", "25%", against("b", lines, half))
    assert found is not None
    assert found.gap is not None
    assert (found.ties, found.clear) == (ties, clear)
    assert found.gap.mean == pytest.approx(0.1)
    assert (found.gap.low, found.gap.high) == pytest.approx((0.1 - half, 0.1 + half))


def test_comparisons_with_another_method_group_or_budget_tell_nothing() -> None:
    lines = [line("b", mean=0.8), line("c", mean=0.7)]
    right = against("b", lines)
    wrong = [replace(right[0], **{what: "other"}) for what in ("against", "group", "budget", "model", "benchmark")]
    found = rank(lines, "still", "25%", wrong)
    assert found is not None
    assert found.gap is None


def test_of_equally_accurate_methods_the_smaller_wins_then_the_one_that_is_best_over_all() -> None:
    lines = [line("a", mean=0.8), line("b", mean=0.8), line("a", "50%", 0.8), line("b", "50%", 0.9)]
    found = rank(lines, "still", "25%")
    assert found is not None
    assert found.best.method == "b"
    found = rank([*lines, line("c", mean=0.8, bytes=1.0)], "still", "25%")
    assert found is not None
    assert found.best.method == "c"


def test_methods_are_compared_with_the_best_on_the_same_questions() -> None:
    """Against sums done by hand."""
    scores = {
        ("a", "25%"): [1, 1, 1, 0],
        ("b", "25%"): [1, 0, 0, 0],
        ("a", "50%"): [0, 0, 0, 0],
        ("b", "50%"): [1, 1, 1, 1],
    }
    cells = [Cell(*key) for key in scores]
    rows = [
        row(cell, f"clip-{clip}", score)
        for cell in cells
        for clip, score in enumerate(scores[cell.method, cell.budget])
    ]
    found = compare_with_best(summarise(rows, (), cells), rows, cells)
    gaps = {(each.method, each.budget, each.against): each.difference.mean for each in found if each.difference}
    assert gaps == {("b", "25%", "a"): -0.5, ("a", "50%", "b"): -1.0}


def row(cell: Cell, clip: str, score: float) -> Row:
    measured = remeasured(
        MEASURED, cell, settings={}, entries=(8,), ratio=0.25, visual_tokens=32, text_entries=4, bytes=100,
        peak_bytes=200, full_bytes=400, video=clip, frames=8, prefill_seconds=0.1, compress_seconds=0.1,
        answer_seconds=0.1, revision=None,
    )  # fmt: skip
    return Row(cell, clip, measured, Answered("0", "needle", "", "", "p", "x", "y", float(score)))


def test_the_front_is_what_no_point_dominates() -> None:
    draw = random.Random(0)
    lines = [line(f"m{n}", mean=draw.randrange(10) / 10, bytes=float(draw.randrange(1, 12))) for n in range(60)]

    def beaten(one: SummaryRow) -> bool:
        mean, size = one.accuracies["overall"].mean, one.bytes
        return any(
            (other.accuracies["overall"].mean >= mean and other.bytes < size)
            or (other.accuracies["overall"].mean > mean and other.bytes <= size)
            for other in lines
        )

    found = pareto_front(lines, MEMORY.of)
    points = {(each.bytes, each.accuracies["overall"].mean) for each in lines if not beaten(each)}
    assert {(each.bytes, each.accuracies["overall"].mean) for each in found} == points
    assert len(found) == len(points)


def test_budgets_are_ordered_by_what_was_kept_and_the_nearest_to_a_tenth_is_found() -> None:
    lines = [
        line("a", "6144", ratio=0.02),
        line("a", "2MiB", ratio=0.3),
        line("a", "12.5%"),
        line("b", "2MiB", ratio=0.2),
    ]
    assert budgets_of([whole(), unmeasured("a", "1%"), *lines]) == {"2MiB": 0.25, "12.5%": 0.125, "6144": 0.02}
    assert nearest_budget(budgets_of(lines)) == "12.5%"
    assert nearest_budget({}) is None


def test_the_methods_whose_patches_are_drawn_are_the_best_near_a_tenth() -> None:
    lines = [*sweep(["a", "b", "c", "d"]), line("e", "50%", 1.0)]
    assert best_methods(lines, 2) == (["d", "c"], "12.5%")


def test_the_headline_names_no_winner_in_a_tie(tmp_path: Path) -> None:
    lines = sweep(["a", "b", "c"])
    text = page_of(tmp_path, lines, against_best=against("c", lines, 0.25))
    lead = re.search(r'<p class="lead".*?</p>', text, re.DOTALL)
    assert lead is not None
    said = " ".join(re.sub(r"<[^>]*>", "", lead[0]).split())
    tie = "c and b do not differ significantly on still (up to 0.75) and on moving (up to 0.72)"
    assert said.startswith(f"At 12.5% {tie}.")
    assert "best" not in said


# --- figures ----------------------------------------------------------------------------------------------------------


def test_twenty_methods_look_different_and_are_the_same_everywhere() -> None:
    found = assign_styles([*METHODS, "full", *METHODS])
    looks = [found[name] for name in METHODS]
    assert (
        len({(look.colour, look.line) for look in looks}) == len({(look.colour, look.marker) for look in looks}) == 20
    )
    assert all(one.marker != other.marker for one, other in pairwise(looks))
    assert all(re.fullmatch(r"(M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)+Z)+", look.path) for look in found.values())


COLOUR_BLIND = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}
"""What dichromats see, in linear RGB: Machado, Oliveira and Fernandes (2009)."""


@pytest.mark.parametrize("seen", COLOUR_BLIND)
def test_colours_differ_to_colour_blind_readers(seen: str) -> None:
    linear = np.array([[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in COLOURS]) ** 2.2
    xyz = np.clip(linear @ np.array(COLOUR_BLIND[seen]).T, 0, 1) @ np.array(
        [[0.434, 0.213, 0.018], [0.376, 0.715, 0.109], [0.190, 0.072, 0.873]]
    )
    x, y, z = np.cbrt(xyz).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert apart[~np.eye(len(COLOURS), dtype=bool)].min() > 12


def test_accuracies_start_at_zero_and_ratios_are_not_joined_with_other_budgets() -> None:
    found = [line("a", budget, 0.5, ratio=ratio) for budget, ratio in (("50%", 0.5), ("25%", 0.25), ("32", 0.06))]
    [axes] = curves(found).axes
    assert axes.get_ylim()[0] <= 0 < 1 <= axes.get_ylim()[1]
    drawn = [curve for curve in axes.get_lines() if curve.get_gid() == "method:a"]
    assert sorted(len(curve.get_xdata()) for curve in drawn) == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_names_keep_their_order_and_their_distance(seed: int) -> None:
    draw = random.Random(seed)
    wanted = sorted((draw.random() for _ in range(12)), reverse=True)
    found = spread(wanted, 0.05)
    assert all(above - below >= 0.05 - 1e-9 for above, below in pairwise(found))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in found)
    assert spread([0.9, 0.5], 0.05) == [0.9, 0.5]
    assert spread([0.5] * 5, 0.5) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_budgets_of_all_units_stand_where_their_ratio_is() -> None:
    lines = [line("a", "50%"), line("a", "256", ratio=0.5), line("a", "1MiB", ratio=0.1)]
    (axes,) = curves(lines).axes
    drawn = np.concatenate([each.get_xdata() for each in axes.lines if each.get_gid() == "method:a"])
    assert list(drawn / (drawn[0] / 0.5)) == pytest.approx([0.5, 0.5, 0.1])
    assert list(axes.get_xticks()) == [0.5, 0.1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50%\n256", "1MiB"]


def test_intervals_and_means_are_drawn_as_they_are() -> None:
    lines = [line("a", "50%", 0.7), line("a", "25%", 0.4), whole(0.9)]
    (axes,) = curves(lines).axes
    drawn = next(each for each in axes.lines if each.get_gid() == "method:a")
    assert list(drawn.get_ydata()) == [0.7, 0.4]
    (bars,) = axes.collections
    assert [list(segment[:, 1]) for segment in bars.get_segments()] == [
        pytest.approx([0.65, 0.75]),
        pytest.approx([0.35, 0.45]),
    ]
    (level,) = [each for each in axes.lines if each.get_linestyle() == ":"]
    assert list(level.get_ydata()) == [0.9, 0.9]


def test_a_cost_that_was_not_measured_is_left_out() -> None:
    lines = [line("a", mean=0.9, compress_seconds=float("nan")), line("b", mean=0.8), whole()]
    memory, time = pareto(lines).axes
    assert {each.get_gid() for each in memory.lines} >= {"method:a", "method:b", "method:full"}
    assert "method:a" not in {each.get_gid() for each in time.lines}
    assert TIME.of(lines[1]) == pytest.approx(0.01 + 0.225)


def test_the_heatmap_shows_every_task_of_the_methods_best_first() -> None:
    figure = heatmap([whole(0.9), line("a", mean=0.4), line("b", mean=0.6), line("c", "50%", 0.9)])
    half, quarter = figure.axes
    assert [label.get_text() for label in quarter.get_yticklabels()] == ["full", "b", "a"]
    assert [label.get_text() for label in half.get_yticklabels()] == ["full", "c"]
    assert [label.get_text() for label in quarter.get_xticklabels()] == ["needle", "order", "persistent", "overall"]
    assert [text.get_text() for text in quarter.texts][4:8] == ["0.50", "0.60", "0.70", "0.60"]


@pytest.mark.sampled
@pytest.mark.parametrize("draw", [draw_curves, draw_pareto, draw_heatmap])
@pytest.mark.parametrize(
    "lines", [sweep(["a", "b"]), [], [unmeasured("a", "50%")]], ids=["sweep", "none", "unmeasured"]
)
def test_figures_are_written_by_suffix(tmp_path: Path, draw: Any, lines: list[SummaryRow]) -> None:
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    for suffix, start in starts.items():
        assert draw(lines, tmp_path / "new" / f"figure{suffix}").read_bytes().startswith(start)
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == sorted(starts)


def test_a_figure_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"\.jpg"):
        draw_curves(sweep(["a"]), tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


# --- the page ---------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects ids, tags, and everything a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                self.fetched.append(value or "")


def test_the_page_says_who_wins_and_needs_nothing_else(tmp_path: Path) -> None:
    lines = sweep(["a", "b", "c"])
    compared = against("c", lines, 0.01)
    text = page_of(tmp_path, lines, against_best=compared, overlays=[overlay()], facts={"device": "cpu"})
    lead = re.search(r'<p class="lead".*?</p>', text, re.DOTALL)
    assert lead is not None
    said = " ".join(re.sub(r"<[^>]*>", "", lead[0]).split())
    assert said == "At 12.5% c is best on still (0.75) and on moving (0.72). The full cache scores 0.98 and 0.98."
    assert text.count('<article class="card') == len(BUDGETS)
    assert text.count("clear</span>") == 2 * len(BUDGETS)
    assert (tmp_path / "report.html").is_file()
    found = Reader(text)
    assert len(found.ids) == len(set(found.ids))
    assert all(each.startswith(("#", "data:image/")) for each in found.fetched)
    assert {each[1:] for each in found.fetched if each.startswith("#")} <= set(found.ids)
    assert not re.search(r"@import|url\((?!#)|<link|<iframe", text)


def test_a_page_without_the_full_cache_compares_nothing_with_it(tmp_path: Path) -> None:
    lines = [line(method, difference=None, retention=None) for method in ("a", "b")]
    said = " ".join(
        re.sub(r"<(svg|style|script).*?</\1>|<[^>]*>", " ", page_of(tmp_path, lines), flags=re.DOTALL).split()
    )
    assert "full cache" not in said
    assert "vs full" not in said
    assert "bundled, world, still: no comparison with full, which was not run on these questions." in said
    said = page_of(tmp_path, [whole(), line("a")])
    assert "vs full" in said
    assert "The star is the full cache." in said
    assert "no comparison" not in said


def test_markup_in_names_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>&\"'"
    lines = [line(bad, mean=0.8, group=bad, model=bad, benchmark=bad), line("b", group=bad, model=bad, benchmark=bad)]
    failure = Failure(Cell(bad, "1%"), "clip", bad)
    text = page_of(tmp_path, lines, title=bad, failures=[failure], facts={bad: {bad: [bad]}}, overlays=[overlay([bad])])
    assert Reader(text).tags.count("script") == 1
    assert "<script>alert" not in text


def test_failures_are_grouped_with_their_clips(tmp_path: Path) -> None:
    failures = [Failure(Cell("tar", "1%"), f"clip-{number}", "BudgetError: too small") for number in range(7)]
    text = page_of(
        tmp_path, [*sweep(["a"]), unmeasured("tar", "1%", error="BudgetError: too small")], failures=failures
    )
    assert text.count("BudgetError: too small") == 1
    assert re.search(r"clip-0, clip-1.*clip-6\">7<", text)
    assert '<td class="failed" data-value="-1">failed</td>' in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "A sweep"),
        ([unmeasured("tar", "50%")], "No method has finished a budget yet"),
        ([replace(unmeasured("tar", "50%"), questions=4, clips=2, unscored=4)], "4 (4 unscored)"),
        ([whole()], "No method has finished"),
        (sweep(["a", "b"], groups=("",)), "<strong>12.5%</strong>"),
        ([line("a", "6144", 0.7, ratio=0.1)], "<strong>6144</strong>"),
    ],
    ids=["nothing", "not run", "unscored", "full only", "one group", "tokens"],
)  # fmt: skip
def test_whatever_there_is_makes_a_page(tmp_path: Path, lines: list[SummaryRow], said: str) -> None:
    text = page_of(tmp_path, lines)
    assert said in text
    assert "nan" not in re.sub(r"<(svg|style|script).*?</\1>|data-value=\"nan\"", "", text, flags=re.DOTALL)


def test_models_and_benchmarks_have_their_own_sections(tmp_path: Path) -> None:
    lines = [line("a"), line("a", model="other"), line("a", benchmark="mlvu")]
    text = page_of(tmp_path, lines)
    assert text.count('<section class="side"') == 3
    assert text.count('href="#side-') == 3


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    write_report(tmp_path, [line("a")], title="old")
    broken = replace(overlay(), pictures=None)
    with pytest.raises(AttributeError):
        write_report(tmp_path, [line("a")], title="new", overlays=[broken])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "<h1>old</h1>" in (tmp_path / "report.html").read_text()


def test_the_same_sweep_makes_the_same_page(tmp_path: Path) -> None:
    pages = [
        page_of(tmp_path / name, [whole(), line("a"), line("b", mean=0.7)], overlays=[overlay()])
        for name in ("one", "two")
    ]
    assert pages[0] == pages[1]


def test_the_page_says_what_the_figures_were_measured_with() -> None:
    rows = [row(Cell("a", "25%"), "clip", 1), row(Cell("a", "25%", seed=1), "clip", 1)]
    found = facts(rows, {"setup": {"stage": "cache", "batch": 8}})
    assert found["versions"] == {"torch": ["2"]}
    assert found["device"] == ["cpu"]
    assert found["seeds"] == [0, 1]
    assert found["setup"] == {"batch": 8}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep over two short clips of the world."""
    world = "world:count=2,frames=8"
    cells = [Cell(method, budget, benchmark=world) for method in ("tar", "van") for budget in ("25%", "12.5%")]
    cells = [Cell("full", "100%", benchmark=world), *cells]
    with Store(tmp_path / "sweep", {"cells": [asdict(cell) for cell in cells], "setup": {"batch": 8}}) as store:
        for cell in cells[:-1]:
            for clip, group in enumerate(("still", "moving")):
                one = row(cell, f"clip-{clip}", float(cell.method != "tar"))
                measured = remeasured(one.measured, group=group, ratio=float(cell.budget.rstrip("%")) / 100)
                store.add(Done(cell, one.clip, measured, (one.answered,)))
        store.fail(Failure(cells[-1], "clip-0", "BudgetError: too small"))
    return store.folder


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    report_command.add(parser.add_subparsers())
    options = parser.parse_args(["report", *arguments])
    code: int = options.run(options)
    return code


def test_the_command_writes_page_figures_and_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--figures", str(folder / "figures"), "--markdown", str(folder / "docs" / "table.md"), "--device", "cpu"]
    assert run(str(folder), *asked, "--title", "Two clips") == 0
    names = [f"figures/{name}{kind}" for name in ("curves", "pareto", "heatmap") for kind in (".png", ".svg")]
    written = [str(folder / name) for name in ("report.html", *names, "docs/table.md")]
    assert capsys.readouterr().out.splitlines() == written
    assert all(Path(name).stat().st_size > 500 for name in written)
    text = (folder / "report.html").read_text()
    assert "<h1>Two clips</h1>" in text
    assert "BudgetError: too small" in text
    assert "Retained patches of still-8" in text
    assert "Retained patches of moving-8" in text
    assert (folder / "docs" / "table.md").read_text().startswith("# Two clips")


def test_the_command_needs_no_clips_where_no_patches_are_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvpress_video.report.findings.load_model", lambda *_: pytest.fail("a model was loaded"))
    out = tmp_path / "new" / "page.html"
    assert run(str(folder), "--overlay-clips", "0", "--out", str(out), "--against", "tar") == 0
    assert "Retained patches" not in out.read_text()
    assert "vs tar" in out.read_text()
    assert not (folder / "clips").exists()


@pytest.mark.parametrize(
    ("change", "message", "drawn"),
    [
        (
            "UPDATE cells SET method = 'gone' WHERE method = 'van'; DELETE FROM measurements WHERE cell IN "
            "(SELECT id FROM cells WHERE budget = '12.5%')",
            "of gone are not drawn: Unknown method 'gone'",
            True,
        ),
        (
            "UPDATE cells SET method = 'gone' WHERE method = 'tar'",
            "of gone are not drawn: Unknown method 'gone'",
            False,
        ),
        ("UPDATE cells SET model = '/models/gone'", "are not drawn: There is no model folder /models/gone", False),
    ],
)
def test_the_report_lives_when_a_method_or_a_model_is_gone(
    folder: Path, change: str, message: str, drawn: bool, recwarn: pytest.WarningsRecorder
) -> None:
    """The tables need the answers alone, and the page says what could not be drawn."""
    with closing(sqlite3.connect(folder / "sweep.sqlite")) as db, db:
        db.executescript(change)
    assert run(str(folder), "--device", "cpu") == 0
    text = html.unescape((folder / "report.html").read_text())
    assert message in text
    assert message in " ".join(str(warning.message) for warning in recwarn)
    assert ("Retained patches of still-8" in text) is drawn


def test_every_name_and_question_is_drawn_as_it_is(tmp_path: Path) -> None:
    """matplotlib would read text between dollars as a formula, and fail where it is none."""
    odd = "$x^{$ \\frac & <b> 10% {} _"
    lines = [line(method, budget, group=odd, model=f"m{odd}", benchmark=benchmark)
             for benchmark in (odd, "b") for method in (odd, "tar", "van") for budget in ("50%", "25%")]  # fmt: skip
    lines += [line("full", "100%", ratio=1.0, group=odd, model=f"m{odd}", benchmark=odd)]
    lines = [replace(each, accuracies={**each.accuracies, odd: each.accuracies["needle"]}) for each in lines]
    drawn = replace(overlay([odd, "tar"]), question=odd, title=odd)
    drawn = replace(drawn, retained=tuple(replace(kept, answer=odd) for kept in drawn.retained))
    for suffix in (".png", ".svg", ".pdf"):
        for draw in (draw_curves, draw_pareto, draw_heatmap):
            draw(lines, tmp_path / f"{draw.__name__}{suffix}")
        write_overlay(drawn, tmp_path / f"overlay{suffix}")
    for name in ("draw_curves", "draw_pareto", "draw_heatmap", "overlay"):
        assert odd in html.unescape((tmp_path / f"{name}.svg").read_text())
    text = html.unescape(page_of(tmp_path, lines, title=odd, overlays=[drawn]))
    assert f"“{odd}”" in text


def test_axes_without_points_have_no_formulas_for_ticks() -> None:
    for draw in (pareto, curves):
        with drawing():
            figure = draw([line("tar", bytes=0.0, compress_seconds=0.0, answer_seconds=0.0), whole(bytes=0.0)])
            figure.savefig(io.BytesIO(), format="png")
        assert not [text for axes in figure.axes for text in axes.get_xticklabels() if "$" in text.get_text()]


def test_the_command_refuses_what_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tar'"):
        run(str(folder), "--against", "tra")
    with pytest.raises(SweepError, match="No sweep in"):
        run(str(tmp_path / "nothing"))
    assert not (folder / "report.html").exists()
