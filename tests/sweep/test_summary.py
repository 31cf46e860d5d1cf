"""Summary rows, records and tables, against means and intervals computed naively."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
from rich.console import Console
from sweep_rows import rows

from kvpress_video.compressor.registry import Registry
from kvpress_video.errors import SweepError
from kvpress_video.sweep.benchmark import Benchmark, Clip, Question
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Failure, Row
from kvpress_video.sweep.stats.clustered import PairedScores
from kvpress_video.sweep.stats.inference import accuracy, compare, detectable, retention
from kvpress_video.sweep.stats.overview import overview
from kvpress_video.sweep.stats.power import power_notes, power_tables, videos_needed
from kvpress_video.sweep.stats.summary import OVERALL, SummaryRow, records, summarise
from kvpress_video.sweep.stats.text import markdown, notes, tables

FULL, TAR, VAN = Cell("full", "100%"), Cell("tar", "50%"), Cell("van", "50%")


class Plain(Benchmark):
    """A benchmark of which only the averaging matters."""

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        raise NotImplementedError

    def score(self, question: Question, answer: str) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class ByTask(Plain):
    levels: ClassVar[tuple[str, ...]] = ("task",)


@dataclass(frozen=True)
class ByCategory(Plain):
    levels: ClassVar[tuple[str, ...]] = ("category", "task")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks of every kind of average."""
    known = {"world": Plain, "by-task": ByTask, "by-category": ByCategory}
    monkeypatch.setattr(Registry, "get", lambda self, name: known[name])


def right(clip: int, number: int) -> float:
    return 1.0


def halves(clip: int, number: int) -> float:
    """Every second clip's needle is missed."""
    return float(number > 0 or clip % 2 == 0)


def swept() -> list[Row]:
    return rows(FULL, right, shared=False) + rows(TAR, halves, shared=True, prefill_seconds=0.001)


def by_method(lines: Sequence[SummaryRow]) -> dict[str, SummaryRow]:
    return {line.method: line for line in lines}


# --- Lines ------------------------------------------------------------------------------------------------------------


def test_a_row_holds_accuracies_comparisons_and_costs() -> None:
    lines = summarise(swept(), [], [FULL, TAR])
    assert [(line.method, line.budget, line.group) for line in lines] == [
        ("full", "100%", "still"),
        ("tar", "50%", "still"),
    ]
    full, tar = lines
    means = {task: found.mean for task, found in tar.accuracies.items()}
    assert means == {"needle": 0.5, "place": 1, "count": 1, "order": 1, OVERALL: 0.875}
    scores = {(clip, number): halves(clip, number) for clip in range(6) for number in range(4)}
    clusters = {key: key[0] for key in scores}
    assert tar.accuracies[OVERALL] == accuracy([*scores.values()], [*clusters.values()])
    paired = PairedScores.of(scores, dict.fromkeys(scores, 1.0), clusters)
    assert tar.difference == compare(paired)
    assert tar.retention == retention(paired)
    assert full.difference is full.retention is None
    assert (tar.entries, tar.ratio, tar.bytes, tar.peak_bytes, tar.full_bytes) == (65, 0.5, 2048, 4096, 8192)
    assert (tar.compress_seconds, tar.answer_seconds, tar.questions, tar.clips) == (0.5, 1, 24, 6)
    assert full.prefill_seconds == 2
    assert math.isnan(tar.prefill_seconds)


def test_costs_are_means_over_clips_however_many_questions_these_have() -> None:
    mine = rows(TAR, right, clips=1, bytes=100, answer_seconds=1.0)
    mine += [replace(row, clip="other.mp4") for row in rows(TAR, right, 1, ("needle",), bytes=300, answer_seconds=4.0)]
    [line] = summarise(mine, [], [TAR])
    assert (line.bytes, line.answer_seconds, line.clips, line.questions) == (200, 2.5, 2, 5)


def test_groups_are_reported_apart_in_the_order_of_models_benchmarks_groups_and_cells() -> None:
    cells = [replace(cell, model=model) for model in ("big", "bundled") for cell in (TAR, FULL)]
    found = [
        row
        for group in ("still", "moving")
        for cell in reversed(cells)
        for row in rows(cell, right if group == "still" else lambda *_: 0.0, group=group)
    ]
    renamed = [replace(row, clip=f"{row.measured.group}-{row.clip}") for row in found]
    lines = summarise(renamed, [], cells)
    assert [(line.model, line.group, line.method, line.accuracies[OVERALL].mean) for line in lines] == [
        (model, group, method, float(group == "still"))
        for model in ("big", "bundled")
        for group in ("still", "moving")
        for method in ("tar", "full")
    ]
    assert all(line.retention is None for line in lines if line.group == "moving")


def test_seeds_are_pooled_and_a_video_drawn_by_both_is_one_cluster() -> None:
    cells = [replace(TAR, seed=seed) for seed in (0, 1)]
    same = [row for cell in cells for row in rows(cell, halves)]
    drawn = [replace(row, measured=replace(row.measured, video=row.clip[2:]), clip=row.clip[2:]) for row in same]
    [line] = summarise(drawn, [], cells)
    assert (line.questions, line.clips) == (48, 12)
    assert (line.accuracies[OVERALL].questions, line.accuracies[OVERALL].clusters) == (48, 6)
    [line] = summarise(same, [], cells)
    assert line.accuracies[OVERALL].clusters == 12


def test_any_method_can_be_compared_with_at_the_same_budget() -> None:
    cells = [Cell(method, budget) for method in ("tar", "van") for budget in ("50%", "25%")]
    found = rows(TAR, halves) + rows(VAN, right) + rows(cells[1], halves)
    lines = {(line.method, line.budget): line for line in summarise(found, [], cells, "tar")}
    assert lines["tar", "50%"].difference is None
    assert lines["van", "25%"].difference is None
    van = lines["van", "50%"]
    assert van.difference is not None
    assert (van.difference.mean, van.against, van.retention) == (0.125, "tar", None)


def test_comparisons_are_on_the_clips_that_both_answered() -> None:
    found = [row for row in swept() if row.cell != FULL or row.clip in ("0-000.mp4", "0-001.mp4")]
    line = by_method(summarise(found, [], [FULL, TAR]))["tar"]
    assert line.difference is not None
    assert line.retention is not None
    assert (line.difference.mean, line.difference.questions, line.retention.mean) == (-0.125, 8, 0.875)


def test_failed_cells_and_cells_that_never_ran_have_a_row() -> None:
    failures = [Failure(VAN, f"0-00{clip}.mp4", f"BudgetError: {clip}") for clip in range(6)]
    never = Cell("snapkv", "50%")
    lines = by_method(summarise(swept(), failures, [FULL, TAR, VAN, never]))
    assert (lines["van"].group, lines["van"].error, lines["van"].accuracies) == ("still", "BudgetError: 0", {})
    assert (lines["snapkv"].group, lines["snapkv"].error, lines["snapkv"].clips) == ("", None, 0)
    assert math.isnan(lines["van"].bytes)
    [alone] = summarise([], failures, [VAN])
    assert (alone.group, alone.error) == ("", "BudgetError: 0")


def test_a_cell_that_failed_on_one_clip_shows_the_others_and_its_error() -> None:
    found = [row for row in swept() if row.cell != TAR or row.clip != "0-003.mp4"]
    lines = summarise(found, [Failure(TAR, "0-003.mp4", "OutOfMemoryError: 80 GiB")], [FULL, TAR])
    tar = by_method(lines)["tar"]
    assert (tar.clips, tar.error, len(lines)) == (5, "OutOfMemoryError: 80 GiB", 2)
    assert "| tar* | 50% | .60 [" in markdown(lines, "Sweep")
    assert any("failed on some clips (figures are from the other 5): OutOfMemoryError" in note for note in notes(lines))


def test_answers_that_need_a_judge_are_left_out_and_counted() -> None:
    found = rows(TAR, lambda clip, number: None if number == 0 else float(clip > 0))
    found += rows(FULL, lambda clip, number: None if clip == 1 else 1.0)
    tar = by_method(summarise(found, [], [FULL, TAR]))["tar"]
    assert (tar.unscored, tar.questions, tar.accuracies[OVERALL].questions) == (6, 24, 18)
    assert tar.accuracies[OVERALL].mean == pytest.approx(5 / 6)
    assert "needle" not in tar.accuracies
    assert tar.difference is not None
    assert (tar.difference.questions, tar.difference.mean) == (15, pytest.approx(-1 / 5))
    [line] = lines = summarise(rows(TAR, lambda *_: None), [], [TAR])
    assert (line.accuracies, line.unscored, line.bytes) == ({}, 24, 2048)
    assert any("24 of 24 answers need a judge" in note for note in notes(lines))
    assert records(lines)[0]["accuracy"] is None


# --- Averages of averages, and units ----------------------------------------------------------------------------------


def categories(benchmark: str) -> tuple[Cell, list[Row]]:
    """Two categories, of one and of two tasks, with different numbers of questions."""
    cell = Cell("tar", "50%", benchmark=benchmark)
    found = rows(cell, lambda clip, number: float((clip * number) % 3 > 0), 12, ("a", "b", "b", "b", "c", "c"))
    return cell, [
        replace(row, answered=replace(row.answered, category="alone" if row.answered.task == "a" else "two"))
        for row in found
    ]


def test_macro_averages_are_means_of_means() -> None:
    cell, found = categories("by-task")
    scores: dict[str, list[float]] = {}
    for row in found:
        assert row.answered.score is not None
        scores.setdefault(row.answered.task, []).append(row.answered.score)
    means = {task: fmean(mine) for task, mine in scores.items()}
    assert len({round(mean, 6) for mean in means.values()}) == 3
    [line] = summarise(found, [], [cell])
    assert {task: line.accuracies[task].mean for task in means} == pytest.approx(means)
    assert line.accuracies[OVERALL].mean == pytest.approx(fmean(means.values()))
    assert any("by-task: overall is the mean of the means by task." in note for note in notes([line]))

    cell, found = categories("by-category")
    [line] = summarise(found, [], [cell])
    assert line.accuracies[OVERALL].mean == pytest.approx((means["a"] + (means["b"] + means["c"]) / 2) / 2)
    assert any("means by task, then by category" in note for note in notes([line]))

    cell, found = categories("world")
    [line] = summarise(found, [], [cell])
    assert line.accuracies[OVERALL].mean == pytest.approx(fmean(score for mine in scores.values() for score in mine))


def test_differences_and_retention_of_macro_averages_are_those_of_the_averages() -> None:
    cell, found = categories("by-task")
    full = replace(cell, method="full", budget="100%")
    found += [replace(row, cell=full, answered=replace(row.answered, score=1.0)) for row in found]
    line = by_method(summarise(found, [], [full, cell]))["tar"]
    assert line.difference is not None
    assert line.retention is not None
    assert line.difference.mean == pytest.approx(line.accuracies[OVERALL].mean - 1)
    assert line.retention.mean == pytest.approx(line.accuracies[OVERALL].mean)


def test_questions_of_one_unit_count_once_and_only_if_all_are_right() -> None:
    found = [
        replace(row, answered=replace(row.answered, task="needle", unit="item" if row.answered.question < "2" else ""))
        for row in rows(TAR, lambda clip, number: float(number != 1 or clip == 0), clips=4)
    ]
    [line] = summarise(found, [], [TAR])
    assert line.accuracies[OVERALL].questions == 12
    assert line.accuracies[OVERALL].mean == (4 + 4 + 1) / 12


def test_a_unit_may_spread_over_the_clips_of_a_video() -> None:
    found = [
        replace(
            row,
            answered=replace(row.answered, unit="item"),
            measured=replace(row.measured, video=f"video {int(row.clip[2:5]) // 2}"),
        )
        for row in rows(TAR, lambda clip, number: float(clip > 0), 6, ("needle",))
    ]
    [line] = summarise(found, [], [TAR])
    assert (line.accuracies[OVERALL].questions, line.accuracies[OVERALL].mean) == (3, pytest.approx(2 / 3))


def test_units_are_compared_over_the_questions_that_both_answered() -> None:
    """A question that only the full cache answered, and got wrong, does not count."""
    full = [replace(row, answered=replace(row.answered, unit="item")) for row in rows(FULL, halves)]
    mine = [
        replace(row, cell=TAR, answered=replace(row.answered, score=1.0))
        for row in full
        if row.answered.question != "0"
    ]
    line = by_method(summarise(full + mine, [], [FULL, TAR]))["tar"]
    assert line.difference is not None
    assert (line.difference.mean, line.difference.questions) == (0, 6)


# --- Records and tables -----------------------------------------------------------------------------------------------


def test_records_are_flat_and_have_one_shape() -> None:
    failures = [Failure(VAN, "0-000.mp4", "BudgetError: too small")]
    lines = summarise(swept(), failures, [FULL, TAR, VAN])
    found = records(lines)
    assert len(found) == 5 + 5 + 1
    assert len({tuple(record) for record in found}) == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    by_task = {(record["method"], record["task"]): record for record in found}
    overall = by_task["tar", OVERALL]
    assert (overall["accuracy"], overall["difference"], overall["retention"]) == (0.875, -0.125, 0.875)
    assert (overall["questions"], overall["clips"], overall["bytes"], overall["prefill_seconds"]) == (24, 6, 2048, None)
    needle = by_task["tar", "needle"]
    assert (needle["accuracy"], needle["difference"], needle["questions"]) == (0.5, None, 6)
    failed = by_task["van", OVERALL]
    assert (failed["error"], failed["accuracy"], failed["bytes"]) == ("BudgetError: too small", None, None)


def printed(lines: Sequence[SummaryRow]) -> str:
    console = Console(width=200, file=io.StringIO())
    for table in tables(lines):
        console.print(table)
    text: Any = console.file
    return str(text.getvalue())


def test_tables_name_model_and_benchmark_once() -> None:
    lines = summarise(swept(), [], [FULL, TAR])
    text = printed(lines)
    assert text.count("bundled, world, still: 6 clips, 24 questions") == 1
    assert text.count("world") == 1
    [_, tar] = [line.split() for line in text.splitlines() if "%" in line and "of" not in line]
    shown = " ".join(tar)
    assert tar[:2] == ["tar", "50%"]
    assert tar[-3:] == ["65", "50.0%", "2"]
    assert ".88 [" in shown
    assert "-.12 [-" in shown


def overviews(lines: Sequence[SummaryRow], width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    for table in overview(lines, width):
        console.print(table)
    text: Any = console.file
    return str(text.getvalue())


def four_budgets(method: str) -> list[Row]:
    return [row for budget in BUDGETS for row in rows(Cell(method, budget), right)]


BUDGETS = ("50%", "25%", "12.5%", "6.25%")


def test_the_overview_has_a_row_per_method_and_fits_80_columns() -> None:
    cells = [FULL, *(Cell(method, budget) for method in ("standby-novelty", "van") for budget in BUDGETS)]
    lines = summarise(rows(FULL, right) + four_budgets("standby-novelty") + four_budgets("van"), [], cells)
    text = overviews(lines, 80)
    assert max(map(len, text.splitlines())) <= 80
    for budget in BUDGETS:
        assert len(re.findall(rf"\b(?<!\.){budget}", text)) == 1
    assert "full 1.00 [" in text
    assert text.count("standby-novelty") == 2  # the budgets in two tables
    assert overviews(lines, 120).count("standby-novelty") == 1


def test_the_overview_shows_what_failed_and_what_never_ran() -> None:
    found = [row for row in swept() if row.cell != TAR or row.clip != "0-003.mp4"]
    failures = [Failure(TAR, "0-003.mp4", "OutOfMemoryError"), Failure(VAN, "0-003.mp4", "BudgetError")]
    text = overviews(summarise(found, failures, [FULL, TAR, VAN, Cell("snapkv", "50%")]), 80)
    assert re.search(r"tar +\.\d\d \[.*\]\*", text)
    assert re.search(r"van +failed", text)
    assert re.search(r"snapkv +not run", text)


def test_markdown_has_a_column_per_figure_and_keeps_its_bars() -> None:
    other = rows(FULL, right, group="a|b") + rows(VAN, right, group="a|b")
    lines = summarise(swept() + other, [], [FULL, TAR, VAN])
    text = markdown(lines, "Sweep")
    assert text.startswith("# Sweep\n\n## bundled, world, still")
    header = next(line for line in text.splitlines() if line.startswith("| method"))
    assert header == (
        "| method | budget | needle | place | count | order | overall | of full | vs full | entries | held | KiB |"
    )
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 13
    failed = summarise(swept(), [Failure(VAN, "?", "Error: a|b\nc")], [FULL, TAR, VAN])
    assert "| van | 50% | failed | " in markdown(failed, "Sweep")
    assert "van 50% (bundled, world) failed: Error: a|b\nc" in notes(failed)


def test_a_comparison_with_a_method_that_was_not_run_has_no_column_and_is_noted() -> None:
    alone = summarise(rows(TAR, halves) + rows(VAN, right), [], [TAR, VAN])
    text = markdown(alone, "Sweep")
    assert "| overall | entries |" in text
    assert "of full" not in text
    assert "bundled, world, still: no comparison with full, which was not run on these questions." in notes(alone)
    recent = Cell("recent", "50%")
    with_one = summarise(swept() + rows(VAN, right), [], [FULL, TAR, VAN, recent], "recent")
    text = markdown(with_one, "Sweep")
    assert "| overall | of full | entries |" in text
    assert "vs" not in text
    assert [note for note in notes(with_one) if "no comparison" in note] == [
        "bundled, world, still: no comparison with recent, which was not run on these questions."
    ]
    for whole in (swept(), rows(FULL, right)):
        assert not any("no comparison" in note for note in notes(summarise(whole, [], [FULL, TAR])))


def test_a_benchmark_of_one_task_has_no_column_for_it() -> None:
    lines = summarise(rows(TAR, right, tasks=("needle",)), [], [TAR])
    assert "needle" not in printed(lines)


def test_square_brackets_are_printed_as_they_are() -> None:
    cell = Cell("per-layer:shares=[1,2]", "50%")
    assert "per-layer:shares=[1,2]" in printed(summarise(rows(cell, right), [], [cell]))


def test_the_detectable_difference_is_noted() -> None:
    [few] = [note for note in notes(summarise(swept(), [], [FULL, TAR])) if "80% power" in note]
    assert "with 6 videos, differences from full of" in few


def test_the_videos_that_a_difference_needs_are_counted_by_method_and_budget() -> None:
    """Enough of them detect the difference, one fewer would not; a pilot's variance may be larger than it looks."""
    swept = rows(FULL, right, clips=60) + rows(TAR, lambda clip, number: float(clip % 3 > 0 or number > 0), clips=60)
    found = videos_needed(summarise(swept, [], [FULL, TAR]), 0.05)
    [needs] = found
    gap = needs.row.difference
    assert gap is not None
    assert needs.videos is not None
    assert needs.most is not None

    def smallest(videos: int) -> float:
        error = gap.error * (gap.clusters / videos) ** 0.5
        return detectable(replace(gap, clusters=videos, questions=videos * 4, error=error))

    assert smallest(needs.videos) <= 0.05 < smallest(needs.videos - 1)
    assert needs.videos < needs.most
    [table] = power_tables(found)
    page = io.StringIO()
    Console(width=100, file=page).print(table)
    assert f"{needs.videos} ({needs.most})" in page.getvalue()
    assert f"{needs.videos} for all; estimated from 60 videos" in power_notes(found, 0.05)[1]


def test_videos_needed_without_a_reference_is_an_error() -> None:
    with pytest.raises(SweepError, match="another with --against"):
        videos_needed(summarise(rows(TAR, right), [], [TAR]), 0.05)
