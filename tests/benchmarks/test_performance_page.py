"""The page of performance: from results files alone, with what no machine has measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.perf import BENCHMARKS
from kvpress_video.benchmarks.perf.results.file import read as read_results
from kvpress_video.benchmarks.perf.results.goals import TARGETS
from kvpress_video.benchmarks.perf.results.measurement import Figure, Goal
from kvpress_video.benchmarks.perf.results.page import publish, texts
from kvpress_video.benchmarks.perf.results.profile import PATHS, measure
from kvpress_video.benchmarks.perf.results.profile_files import keep, read
from kvpress_video.benchmarks.publishing.provenance import write_result
from kvpress_video.benchmarks.publishing.sweep import fill

from kvpress_video.errors import BenchmarkError

ROOT = Path(__file__).parents[2]
ANYWHERE = ("reading", "frame")  # goals that no GPU has a part in
PASS, SPEED = "compressing ÷ copying keys and values", "frames (of two pictures each) per second"
FIGURES = (
    Figure("pass", "tar, 6,144 entries", PASS, 2.5, "×", Goal(4), 0.5, "it is read"),
    Figure("pass", "van, 6,144 entries", PASS, 8.75, "×", Goal(4), 0.25, "it is read"),
    Figure("pass", "random, 6,144 entries", PASS, 99.0, "×"),
    Figure("stream", "infinipot-v, minutes 0 to 1", SPEED, 8.0, "fps", None, 90.0, "it is computed"),
    Figure("stream", "infinipot-v, minutes 1 to 2", SPEED, 7.5, "fps", None, 90.0, "it is computed"),
    Figure("sweep", "three methods", "seconds of prefill, one per cell ÷ shared", 6.25, "×", Goal(5, True), 9.0),
)


def results(folder: Path, name: str, device: str, figures: tuple[Figure, ...] = FIGURES) -> None:
    head = {"device": device, "machine": "an oven", "scale": "laptop", "what": "small", "versions": {"torch": "2.13"}}
    write_result(folder / f"{name}.json", head, rows=[{**one.record(), "revision": "abcdef0123"} for one in figures])


def goals(table: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return rows[2:]


def named(row: list[str]) -> str:
    """The benchmark that a row links to."""
    return row[0].partition("]")[0].strip("[")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results(tmp_path / "perf", "cpu", "cpu: x86_64, 2 threads")
    return tmp_path / "perf"


def test_every_goal_has_its_row_with_what_was_asked(folder: Path) -> None:
    rows = goals(texts(folder)["summary"])
    assert [row[1:3] for row in rows] == [[asked.what, asked.goal] for asked in TARGETS]
    assert {row[0] for row in rows} == {f"[{name}](#{name})" for name in BENCHMARKS}


def test_a_goal_is_measured_by_its_figures_alone(folder: Path) -> None:
    rows = {(named(row), row[1]): row[3:] for row in goals(texts(folder)["summary"])}
    by_benchmark = [cells for (name, _), cells in rows.items() if name == "pass"]
    assert by_benchmark[0] == ["2.5 to 8.75 × (reached by 1 of 2)", "0.25 to 0.5 ×"]
    assert by_benchmark[1][0] == "not measured"
    speed = next(cells for (_, what), cells in rows.items() if what.startswith("frames per second"))
    assert speed == ["7.5 to 8 fps (target for GPUs only)", "90 fps"]
    assert rows["sweep", "seconds of prefill, one per cell ÷ one shared by all"] == ["6.25 × (reached)", "9 ×"]


def test_what_was_not_reached_is_said_in_words(folder: Path) -> None:
    text = texts(folder)["pass"]
    assert "Target: ≤ 4 ×. Not reached: van, 6,144 entries (8.75 ×)." in text
    assert "| van | **8.75 × (floor 0.25)** |" in text
    assert "| random | 99 × |" in text
    assert "Floor: it is read." in text
    assert "Target: ≥ 5 ×. Reached." in texts(folder)["sweep"]


@pytest.mark.parametrize("benchmark", [name for name in BENCHMARKS if name not in ANYWHERE])
def test_a_missing_gpu_is_said_of_every_goal(folder: Path, benchmark: str) -> None:
    text = texts(folder)[benchmark]
    said = next(line for line in text.splitlines() if line.startswith("Not measured on a GPU"))
    for asked in TARGETS:
        assert (f"{asked.what} ({asked.goal})" in said) == (asked.benchmark == benchmark)
    assert f"kvpress-video bench {benchmark} --out benchmarks/results/perf/NAME.json" in said


@pytest.mark.parametrize("benchmark", ANYWHERE)
def test_no_gpu_is_missed_where_none_is_used(folder: Path, benchmark: str) -> None:
    text = texts(folder)[benchmark]
    assert f"Not measured yet: `kvpress-video bench {benchmark} --out" in text
    assert "No GPU" not in text


def test_files_of_one_machine_share_a_column(folder: Path) -> None:
    one = Figure(
        "peers", "key-norm and KnormPress, 4,096 visual tokens", "time of a prefill ÷ kvpress's", 1.5, "×", Goal(1)
    )
    results(folder, "cpu-peers", "cpu: x86_64, 2 threads", (one,))
    page = texts(folder)
    rows = {(named(row), row[1]): row[3:] for row in goals(page["summary"])}
    assert page["summary"].count("measured: cpu: x86_64, 2 threads, laptop") == 1
    assert rows["peers", "time of a prefill at 25 % ÷ kvpress's"][0] == "1.5 × (not reached)"
    assert rows["sweep", "seconds of prefill, one per cell ÷ one shared by all"][0] == "6.25 × (reached)"
    assert page["machines"].count("an oven") == 2
    assert page["peers"].count("**cpu: x86_64, 2 threads, laptop**") == 1


def test_different_goals_in_one_table_are_told_apart(folder: Path) -> None:
    ratio = "time ÷ the stock prefill's"
    found = tuple(
        Figure("modes", f"{mode}, 4,096 visual tokens", ratio, 1.04, "×", Goal(limit))
        for mode, limit in (("split", 1.05), ("chunked", 1))
    )
    results(
        folder, "cpu", "cpu: x86_64, 2 threads", (*found, Figure("modes", "split, all", "growth", 1.2, "", Goal(1.1)))
    )
    text = texts(folder)["modes"]
    assert "Target for split: ≤ 1.05 ×. Reached." in text
    assert "Target for chunked: ≤ 1 ×. Not reached: chunked, 4,096 visual tokens (1.04 ×)." in text
    assert "Target: ≤ 1.1. Not reached: split, all (1.2)." in text
    assert "| split | **1.2** |" in text


def test_a_gpu_is_judged_by_its_own_goals(folder: Path) -> None:
    fast = replace(FIGURES[3], measured=45.0, goal=Goal(30, least=True))
    results(folder, "h200", "cuda: NVIDIA H200", (FIGURES[0], fast))
    page = texts(folder)
    speed = next(row for row in goals(page["summary"]) if row[1].startswith("frames per second"))
    assert speed[3:] == ["7.5 to 8 fps (target for GPUs only)", "90 fps", "45 fps (reached)", "90 fps"]
    said = next(line for line in page["stream"].splitlines() if line.startswith("Not measured on a GPU"))
    assert "frames per second" not in said
    assert "compression's share" in said


def test_without_results_the_page_says_so(tmp_path: Path) -> None:
    page = texts(tmp_path)
    assert [row[3] for row in goals(page["summary"])] == ["not measured yet"] * len(TARGETS)
    for benchmark in BENCHMARKS:
        assert f"Not measured yet: `kvpress-video bench {benchmark} --out" in page[benchmark]
    assert page["machines"].startswith("Nothing was measured yet")
    assert page["profiles"].startswith("No hot path was profiled yet")


def test_only_what_stands_between_marks_changes(folder: Path, tmp_path: Path) -> None:
    page, committed = tmp_path / "performance.md", (ROOT / "docs" / "performance.md").read_text()
    page.write_text(committed)
    publish(folder, page)
    before = page.read_text()
    assert before.split("<!-- ")[0] == committed.split("<!-- ")[0]
    assert before.count("Target: ≤ 4 ×") == 1
    publish(folder, page)
    assert page.read_text() == before


def test_a_page_without_its_marks_is_left_alone(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# A\n<!-- summary -->\n")
    with pytest.raises(BenchmarkError, match="no place for 'summary'"):
        publish(folder, page)
    assert page.read_text() == "# A\n<!-- summary -->\n"


def test_another_file_among_the_results_is_named(folder: Path) -> None:
    (folder / "other.json").write_text("[1, 2]")
    with pytest.raises(BenchmarkError, match=r"other\.json holds no figures"):
        texts(folder)


def test_a_profile_has_two_sides_of_one_machine(folder: Path) -> None:
    file = folder / "profiles" / "pass.json"
    before = {"revision": "1111111aaaa", "seconds": 0.5, "table": [["aten::cat", 1200, 400.0, 80.0]]}
    after = {"revision": "2222222bbbb-dirty", "seconds": 0.125, "table": [["aten::gather", 4, 100.0, 80.0]]}
    keep(file, "One pass", "Concatenation took most of it.", "an oven", "before", before)
    assert "Not measured after the change." in texts(folder)["profiles"]
    keep(file, "One pass", None, "an oven", "after", after)
    assert read(file) == {"path": "One pass", "why": "Concatenation took most of it.", "machine": "an oven",
                          "before": before, "after": after}  # fmt: skip
    said = texts(folder)["profiles"]
    assert "500 ms before, 125 ms after: 4.00 times as fast." in said
    assert "| `aten::cat` | 1,200 | 400 | 80.0 % |" in said
    assert "revision 1111111, 500 ms" in said
    assert "revision 2222222-dirty, 125 ms" in said
    with pytest.raises(BenchmarkError, match="machine 'an oven', not 'a toaster'"):
        keep(file, "One pass", None, "a toaster", "after", after)


@pytest.mark.parametrize("content", ["[]", "{}", '{"path": "a", "why": "", "machine": "b", "before": {"table": []}}'])
def test_a_file_that_is_no_profile_is_named(folder: Path, content: str) -> None:
    (folder / "profiles").mkdir()
    (folder / "profiles" / "pass.json").write_text(content)
    with pytest.raises(BenchmarkError, match=r"pass\.json holds no profile"):
        texts(folder)


def test_a_profile_counts_the_operations_of_one_round() -> None:
    import torch

    one = torch.ones(64, 64)
    spent, table = measure(lambda: lambda: [one.mm(one) for _ in range(3)], torch.device("cpu"), rounds=2)
    assert spent > 0
    counts = {name: calls for name, calls, *_ in table}
    assert counts["aten::mm"] == 3
    assert 0 < sum(share for *_, share in table) <= 100.1


@pytest.mark.parametrize("path", PATHS)
def test_hot_paths_can_be_done_again_and_again(path: str) -> None:
    from kvpress_video.benchmarks.perf.setup.scales import bed

    _, ready = PATHS[path](bed("tiny", "cpu"), "infinipot-v")
    _, table = measure(ready, bed("tiny", "cpu").device, rounds=1)
    assert len(table) > 3


def test_a_mark_must_be_closed() -> None:
    with pytest.raises(ValueError, match="no place for 'memory'"):
        fill("<!-- memory -->\n<!-- /other -->\n", "memory", "x")


def test_the_committed_tables_come_from_the_committed_results() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    filled = page
    for name, text in texts(ROOT / "benchmarks" / "results" / "perf").items():
        filled = fill(filled, name, text)
    assert filled == page


def test_every_committed_figure_with_a_goal_belongs_to_one_that_was_asked() -> None:
    for file in (ROOT / "benchmarks" / "results" / "perf").glob("*.json"):
        rows: list[dict[str, Any]] = read_results(file)[1]
        for figure in map(Figure.of, rows):
            if figure.goal is not None:
                assert sum(figure in asked.of([figure]) for asked in TARGETS) == 1, json.dumps(figure.record())
