"""Sweeps: cells, rows on disk, interruptions, failures, statistics and tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from kvpress_video.budget import Budget
from kvpress_video.errors import BudgetError, KVPressVideoError, UnknownNameError
from kvpress_video.sweep import Cell, Sweep, make_cells, run_sweep, split_methods, sweep
from kvpress_video.sweep.executors import Job, Outcome
from kvpress_video.sweep.report import markdown, notes, summarise, summary_csv, tables
from kvpress_video.sweep.results import Results, read_rows
from kvpress_video.sweep.rows import Failure, Row
from kvpress_video.sweep.statistics import accuracy, compare
from kvpress_video.sweep.tasks import same_answer
from kvpress_video.sweep.worker import check_achieved

# --- Statistics -------------------------------------------------------------------------------------------------------


def test_with_one_question_per_cluster_the_interval_is_wilsons() -> None:
    correct = np.arange(400) < 290
    found = accuracy(correct.tolist(), list(range(400)))
    wilson = stats.binomtest(290, 400).proportion_ci(method="wilson")
    assert found.mean == 0.725
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-3)
    assert (found.questions, found.clusters) == (400, 400)


def test_questions_that_agree_within_a_cluster_count_once() -> None:
    """Every cluster's eight answers are the same: as good as one question per cluster."""
    outcomes = np.arange(40) < 26
    copied = accuracy(np.repeat(outcomes, 8).tolist(), np.repeat(np.arange(40), 8).tolist())
    single = accuracy(outcomes.tolist(), list(range(40)))
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))


@pytest.mark.parametrize(("share", "alike"), [(0.75, 2.0), (0.9, 5.0), (0.4, 20.0)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(share: float, alike: float) -> None:
    """Beta-binomial clusters: each clip has its own difficulty."""
    draw = np.random.default_rng(0)
    clusters = np.repeat(np.arange(32), 8).tolist()
    covered = 0
    for _ in range(600):
        difficulty = draw.beta(alike * share, alike * (1 - share), 32)
        found = accuracy((draw.random((32, 8)) < difficulty[:, None]).ravel().tolist(), clusters)
        covered += found.low <= share <= found.high
    assert 0.925 <= covered / 600 <= 0.985


@pytest.mark.parametrize("value", [False, True])
def test_answers_that_all_agree_leave_room_for_doubt(value: bool) -> None:
    found = accuracy([value] * 160, np.repeat(np.arange(20), 8).tolist())
    assert found.mean == value
    assert found.high - found.low > 0.1
    assert found.low <= value <= found.high


def test_one_cluster_says_nothing() -> None:
    assert (accuracy([True, False], [0, 0]).low, accuracy([True, False], [0, 0]).high) == (0, 1)
    assert compare({1: True}, {1: False}, {1: "clip"}).p == 1


def test_no_questions_and_no_clusters_are_errors() -> None:
    with pytest.raises(ValueError, match="no questions"):
        accuracy([], [])
    with pytest.raises(ValueError, match="2 answers in 1 clusters"):
        accuracy([True, True], [0])
    with pytest.raises(ValueError, match="no questions"):
        compare({1: True}, {2: True}, {1: 0, 2: 0})


def test_a_paired_comparison_of_unclustered_questions_is_the_paired_t_test() -> None:
    draw = np.random.default_rng(1)
    left, right = (dict(enumerate((draw.random(200) < share).tolist())) for share in (0.8, 0.7))
    found = compare(left, right, {key: key for key in left})
    expected = stats.ttest_rel([float(x) for x in left.values()], [float(x) for x in right.values()])
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_equal_answers_do_not_differ() -> None:
    answers = {number: number % 3 == 0 for number in range(30)}
    found = compare(answers, answers, {number: number // 5 for number in answers})
    assert (found.mean, found.p) == (0, 1)
    assert found.low == -found.high
    assert 0 < found.high < 0.15


def test_clusters_that_all_differ_by_the_same_are_judged_by_their_number() -> None:
    found = compare({n: n % 4 == 0 for n in range(16)}, dict.fromkeys(range(16), True), {n: n // 4 for n in range(16)})
    assert (found.mean, found.p) == (-0.75, 2**-3)
    assert found.low < -0.75 < found.high


def test_only_shared_questions_are_compared() -> None:
    found = compare({1: True, 2: True, 3: True}, {2: True, 3: True, 4: False}, {1: 1, 2: 2, 3: 3, 4: 4})
    assert (found.questions, found.mean) == (2, 0)


def test_equally_good_methods_are_told_apart_in_one_of_twenty_cases() -> None:
    draw = np.random.default_rng(2)
    clusters = {number: number // 8 for number in range(256)}
    alarms = 0
    for _ in range(400):
        difficulty = draw.beta(3, 2, 32).repeat(8)
        left, right = (dict(enumerate((draw.random(256) < difficulty).tolist())) for _ in range(2))
        alarms += compare(left, right, clusters).p < 0.05
    assert alarms / 400 < 0.085


# --- Cells ------------------------------------------------------------------------------------------------------------


def test_the_full_cache_runs_once() -> None:
    cells = make_cells(["tar", "full", "van", "tar"], ["50%", "256"])
    assert [str(cell) for cell in cells] == ["tar 50%", "tar 256", "full 100%", "van 50%", "van 256"]


@pytest.mark.parametrize(
    ("methods", "budgets", "error", "message"),
    [
        (["nowelty"], ["50%"], UnknownNameError, "Did you mean 'novelty'"),
        (["tar:rho=1"], ["50%"], UnknownNameError, "setting of tar"),
        (["tar"], ["fifty"], BudgetError, "fifty"),
        (["tar"], ["150%"], BudgetError, "100%"),
        (["tar"], [], BudgetError, "No budgets"),
        ([], ["50%"], UnknownNameError, "No methods"),
    ],
)
def test_cells_that_cannot_run_are_refused_at_once(
    methods: list[str], budgets: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_cells(methods, budgets)


def test_settings_stay_with_their_method() -> None:
    text = "full, infinipot-v:tar_ratio=.5,pooling=True,snapkv,random:seed=3"
    assert split_methods(text) == ["full", "infinipot-v:tar_ratio=.5,pooling=True", "snapkv", "random:seed=3"]


def test_answers_are_compared_as_words() -> None:
    assert same_answer(" Top  left.\n", "top left")
    assert not same_answer("left", "top left")


# --- Rows on disk -----------------------------------------------------------------------------------------------------

ROW = Row(
    method="tar",
    budget="50%",
    settings={"recent_ratio": 0.25},
    stage="cache",
    positions="keep",
    entries=[64, 64],
    ratio=0.5,
    visual_tokens=128,
    text_entries=20,
    bytes=1000,
    full_bytes=2000,
    clip="a.mp4",
    camera="still",
    seed=1,
    frames=16,
    fps=2.0,
    pixels="112x112",
    family="needle",
    question="What?",
    prompt="What? ",
    answer="red",
    expected="red",
    correct=True,
    seconds=0.1,
    model="bundled",
    dtype="float32",
    attention="sdpa",
    device="cpu",
    versions={"torch": "2"},
    revision=None,
)
PLAN = {"cells": ["tar 50%"], "stage": "cache"}


def two_questions(row: Row = ROW) -> list[Row]:
    return [row, replace(row, question="Where?", prompt="Where? ", family="place", answer="up", correct=False)]


def test_rows_survive_and_an_interrupted_write_leaves_only_whole_clips(tmp_path: Path) -> None:
    first = Results(tmp_path, PLAN, {"a.mp4": 2, "b.mp4": 2})
    first.add(two_questions())
    whole = (tmp_path / "rows.jsonl").read_bytes()
    first.add(two_questions(replace(ROW, clip="b.mp4")))
    file = tmp_path / "rows.jsonl"
    for torn in (file.read_bytes()[:-20], whole + b'{"method": "ta', file.read_bytes()[: len(whole)]):
        file.write_bytes(torn)
        again = Results(tmp_path, PLAN, {"a.mp4": 2, "b.mp4": 2})
        assert again.rows == two_questions()
        assert again.finished() == {(Cell("tar", "50%"), "a.mp4")}
        assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_rows_can_be_read_from_a_torn_file(tmp_path: Path) -> None:
    text = json.dumps(ROW.as_dict()) + "\n"
    (tmp_path / "rows.jsonl").write_text(text + text[:50])
    assert read_rows(tmp_path / "rows.jsonl") == [ROW]


def test_another_sweep_does_not_mix_into_a_folder(tmp_path: Path) -> None:
    Results(tmp_path, PLAN, {}).add(two_questions())
    with pytest.raises(KVPressVideoError, match="differs in cells, stage"):
        Results(tmp_path, {"cells": ["van 50%"], "stage": "input"}, {})
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2


# --- The sweep --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    family: str
    text: str
    answer: str


@dataclass(frozen=True)
class FakeClip:
    path: Path
    camera: str
    seed: int
    questions: tuple[Ask, ...]


CLIPS: Any = [
    FakeClip(Path(f"{number}.mp4"), ("still", "moving")[number % 2], number, (Ask("needle", "What?", "red"),) * 2)
    for number in range(4)
]
CELLS = make_cells(["full", "tar", "van"], ["50%"])


class Fake:
    """An executor that needs no model: `van` fails, and Ctrl-C comes after `stop` jobs."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.ran: list[Job] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            if len(self.ran) == self.stop:
                raise KeyboardInterrupt
            self.ran.append(job)
            if job.cell.method == "van":
                yield job, Failure("van", "50%", job.clip.path.name, "BudgetError: too small")
            else:
                named = {"method": job.cell.method, "budget": job.cell.budget}
                row = replace(ROW, **named, clip=job.clip.path.name, camera=job.clip.camera)
                yield job, two_questions(row)


def run(folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(sweep, "_executor", lambda setup, workers: fake)
    return run_sweep(CELLS, CLIPS, folder)


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    done = run(tmp_path, fake, monkeypatch)
    assert [job.cell.method for job in fake.ran].count("van") == 1
    assert (done.done, done.jobs, done.interrupted) == (8, 12, False)
    assert [failure.cell for failure in done.failures] == [Cell("van", "50%")]
    assert json.loads((tmp_path / "failures.jsonl").read_text())["error"] == "BudgetError: too small"
    assert any("van 50% failed: BudgetError: too small" in note for note in notes(done.lines))
    assert "| van | 50% | failed |" in (tmp_path / "table.md").read_text()
    assert len(read_rows(tmp_path / "rows.jsonl")) == 16


def test_an_interrupted_sweep_reports_what_it_has_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, Fake(stop=5), monkeypatch)
    assert (first.interrupted, first.done) == (True, 4)
    assert (tmp_path / "table.md").read_text().startswith("# Sweep (interrupted)")
    fake = Fake()
    second = run(tmp_path, fake, monkeypatch)
    assert (second.interrupted, second.done) == (False, 8)
    assert [str(job.cell) for job in fake.ran].count("full 100%") == 2
    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == len({(row.cell, row.clip, row.prompt) for row in rows}) == 16


def test_a_sweep_interrupted_before_its_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(tmp_path, Fake(stop=0), monkeypatch)
    assert (done.interrupted, done.done) == (True, 0)
    assert (tmp_path / "summary.csv").exists()


def test_progress_reaches_the_end_even_where_cells_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_executor", lambda setup, workers: Fake())
    seen: list[tuple[int, int]] = []
    run_sweep(CELLS[::-1], CLIPS, tmp_path, progress=lambda done, total, _: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert seen == sorted(seen)


# --- Tables -----------------------------------------------------------------------------------------------------------


def sweep_rows() -> list[Row]:
    rows = []
    for number in range(6):
        for cell, right in ((Cell("full", "100%"), True), (Cell("tar", "50%"), number % 2 == 0)):
            row = replace(ROW, method=cell.method, budget=cell.budget, clip=f"{number}.mp4", correct=right)
            rows += [row, replace(row, family="place", prompt="Where? ", correct=True)]
    return rows


def test_tables_hold_families_overall_budget_and_the_paired_difference() -> None:
    lines = summarise(sweep_rows(), [], CELLS[:2])
    assert [line.cell.method for line in lines] == ["full", "tar"]
    tar = lines[1]
    assert {name: found.mean for name, found in tar.accuracies.items()} == {"needle": 0.5, "place": 1, "overall": 0.75}
    assert tar.difference is not None
    assert tar.difference.mean == -0.25
    assert (tar.entries, tar.ratio, tar.bytes, tar.clips) == (64, 0.5, 1000, 6)

    [table] = tables(lines)
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Still camera: 6 clips, 12 questions" in text
    assert "1.00±" in text
    assert "-.25±" in text
    assert "50.0%" in text
    assert "| tar | 50% | .50±" in markdown(lines, "Sweep")

    records = list(csv.DictReader(io.StringIO(summary_csv(lines))))
    overall = [record for record in records if (record["method"], record["family"]) == ("tar", "overall")]
    assert float(overall[0]["accuracy"]) == 0.75
    assert float(overall[0]["difference"]) == -0.25
    assert len(records) == 6


def test_any_method_can_be_compared_with_at_the_same_budget() -> None:
    rows = [row for row in sweep_rows() if row.method == "tar"]
    rows += [replace(row, method="van", correct=True) for row in rows]
    cells = [Cell(method, budget) for method in ("tar", "van") for budget in ("50%", "25%")]
    against = {str(line.cell): line.difference for line in summarise(rows, [], cells, "tar")}
    assert against["tar 50%"] is None
    assert against["van 25%"] is None
    assert against["van 50%"] is not None
    assert against["van 50%"].mean == 0.25
    assert "vs tar" in markdown(summarise(rows, [], cells, "tar"), "Sweep")


def test_what_to_compare_with_must_be_in_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tar'"):
        run_sweep([Cell("tar", "50%")], [], tmp_path, against="tra")


def test_cameras_are_reported_apart() -> None:
    rows = sweep_rows() + [replace(row, camera="moving", correct=False) for row in sweep_rows()]
    lines = summarise(rows, [], CELLS[:2])
    assert [(line.camera, line.accuracies["overall"].mean) for line in lines] == [
        ("still", 1),
        ("still", 0.75),
        ("moving", 0),
        ("moving", 0),
    ]


# --- What was achieved ------------------------------------------------------------------------------------------------


@dataclass
class Held:
    """As much of a report as the check reads."""

    entries: tuple[int, ...]
    visual_tokens: int = 128
    bytes: int = 1000
    method: str = "tar"

    @property
    def report(self) -> Held:
        return self


@pytest.mark.parametrize(
    ("budget", "held"),
    [("50%", (64, 64)), ("50%", (96, 32)), ("50%", (20, 20)), ("64", (64, 64)), ("1000B", (128, 128))],
)
def test_a_budget_that_was_kept(budget: str, held: tuple[int, ...]) -> None:
    check_achieved(Budget.parse(budget), Held(held))  # type: ignore[arg-type]


@pytest.mark.parametrize(("budget", "held"), [("50%", (64, 65)), ("64", (65, 64)), ("999B", (1, 1))])
def test_a_budget_that_was_not_kept_is_an_error(budget: str, held: tuple[int, ...]) -> None:
    with pytest.raises(BudgetError, match="tar holds"):
        check_achieved(Budget.parse(budget), Held(held))  # type: ignore[arg-type]
