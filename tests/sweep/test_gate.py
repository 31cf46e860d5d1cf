"""The CI gate: detected regressions, false alarms, and its reports."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sweep_rows import TASKS, Score, done, remeasured, rows

from kvpress_video.cli import compare as command
from kvpress_video.cli import program as cli
from kvpress_video.errors import SweepError, UnknownNameError
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.gate.compare import Gate, compare_sweeps
from kvpress_video.sweep.gate.sweep_data import SweepData
from kvpress_video.sweep.gate.text import as_json, findings, markdown, notes
from kvpress_video.sweep.grid.flags import flag_parts
from kvpress_video.sweep.grid.spec import make_grid
from kvpress_video.sweep.results.records import Failure, Row
from kvpress_video.sweep.results.store import Store
from kvpress_video.sweep.stats.clustered import PairedScores
from kvpress_video.sweep.stats.inference import compare, fall, holm
from kvpress_video.sweep.stats.summary import OVERALL

FULL, TAR, VAN = Cell("full", "100%"), Cell("tar", "25%"), Cell("van", "25%")
CELLS = (FULL, TAR, VAN)
CLIPS = 48


def data(found: Sequence[Row], name: str = "new", **parts: Any) -> SweepData:
    return SweepData(name, found, **parts)


class Sweeper:
    """Simulates the answers of a model; reruns differ in a few that were near a tie."""

    def __init__(self, seed: int, cells: Sequence[Cell] = CELLS, clips: int = CLIPS) -> None:
        self.draw = np.random.default_rng(seed)
        self.cells, self.clips = cells, clips
        self.right = {
            (cell, clip, number): bool(self.draw.random() < difficulty)
            for cell, share in zip(cells, (0.95, 0.8, 0.6), strict=False)
            for clip in range(clips)
            for difficulty in [self.draw.beta(6 * share, 6 * (1 - share))]
            for number in range(len(TASKS))
        }

    def run(self, flips: float = 0.01, worse: Cell | None = None, loss: float = 0.0, order: bool = False) -> list[Row]:
        """Make the rows of a sweep in which the cell `worse` loses a fraction of its right answers."""

        def score(cell: Cell) -> Score:
            def one(clip: int, number: int) -> float:
                right = self.right[cell, clip, number]
                right = right != (self.draw.random() < flips)
                return float(right and not (cell == worse and self.draw.random() < loss))

            return one

        found = [row for cell in self.cells for row in rows(cell, score(cell), self.clips)]
        return [found[place] for place in self.draw.permutation(len(found))] if order else found


def named(gate: Gate, verdict: Any = "fell") -> set[tuple[str, str]]:
    return {(found.method, found.task) for found in gate.of(verdict)}


# --- Green and red ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_a_worsened_method_is_caught_and_named(seed: int) -> None:
    sweeper = Sweeper(seed)
    gate = compare_sweeps(data(sweeper.run(), "base"), data(sweeper.run(worse=TAR, loss=0.35, order=True)))
    assert not gate.green
    assert ("tar", OVERALL) in named(gate)
    assert {method for method, _ in named(gate)} == {"tar"}
    assert any(finding.startswith("FELL: tar 25%, overall, on world by bundled: .") for finding in findings(gate))


@pytest.mark.parametrize("seed", range(10))
def test_a_rerun_in_another_order_stays_green(seed: int) -> None:
    sweeper = Sweeper(seed, [replace(cell, seed=number) for number in (0, 1) for cell in (FULL, TAR)], clips=24)
    sweeper.right = {
        key: True for cell in sweeper.cells for clip in range(24) for key in [(cell, clip, n) for n in range(4)]
    }
    gate = compare_sweeps(data(sweeper.run(), "base"), data(sweeper.run(order=True)))
    assert gate.green
    assert not gate.missing
    assert gate.comparisons[0].base.questions == 2 * 24 * 4


def test_the_order_of_the_answers_changes_nothing() -> None:
    sweeper = Sweeper(0)
    base, new = sweeper.run(), sweeper.run(worse=VAN, loss=0.2)
    shuffled = [new[place] for place in np.random.default_rng(0).permutation(len(new))]
    one, other = (compare_sweeps(data(base, "base"), data(found)) for found in (new, shuffled))
    key = lambda found: (found.method, found.task)  # noqa: E731
    for left, right in zip(sorted(one.comparisons, key=key), sorted(other.comparisons, key=key), strict=True):
        assert left.p == pytest.approx(right.p)
        assert left.difference.mean == pytest.approx(right.difference.mean)


def test_equally_good_sweeps_are_red_in_less_than_one_of_twenty_cases() -> None:
    """Both sweeps redraw a fifth of their answers: far more than a rerun does."""
    sweeper = Sweeper(3, CELLS[1:], clips=24)
    red = [not compare_sweeps(data(sweeper.run(0.2), "base"), data(sweeper.run(0.2))).green for _ in range(60)]
    assert sum(red) / len(red) <= 0.05


def test_only_a_fall_is_red() -> None:
    sweeper = Sweeper(1)
    worse, better = sweeper.run(worse=TAR, loss=0.4), sweeper.run()
    gate = compare_sweeps(data(worse, "base"), data(better))
    assert gate.green
    assert ("tar", OVERALL) in named(gate, "rose")
    assert any(finding.startswith("rose: tar 25%, overall") for finding in findings(gate))


def test_a_fall_of_one_task_is_caught() -> None:
    base = rows(TAR, lambda clip, number: float((clip + number) % 5 > 0), CLIPS)
    new = rows(TAR, lambda clip, number: float((clip + number) % 5 > 0 and (number != 2 or clip % 3 > 0)), CLIPS)
    gate = compare_sweeps(data(base, "base"), data(new))
    assert named(gate) >= {("tar", "count")}
    assert not named(gate) & {("tar", "needle"), ("tar", "place"), ("tar", "order")}


def test_p_is_corrected_for_everything_that_can_fail() -> None:
    sweeper = Sweeper(4)
    base, new = sweeper.run(0.1), sweeper.run(0.1, worse=VAN, loss=0.15)
    gate = compare_sweeps(data(base, "base"), data(new))
    ps = []
    for cell in CELLS:
        before, after = (
            {(row.clip, row.answered.question): row.answered.score for row in found if row.cell == cell}
            for found in (base, new)
        )
        for number in (None, "0", "1", "2", "3"):
            picked = {key: score for key, score in after.items() if number in (None, key[1])}
            paired = PairedScores.of(picked, before, {key: key[0] for key in picked})  # type: ignore[arg-type]
            ps.append(fall(paired))
    assert [found.p for found in gate.comparisons] == pytest.approx(holm(ps))
    expected = compare(paired)
    last = gate.comparisons[-1].difference
    assert (last.mean, last.low, last.high) == pytest.approx((expected.mean, expected.low, expected.high))


# --- How much may be lost ---------------------------------------------------------------------------------------------


def thirds(clip: int, number: int) -> float:
    return float((clip * 4 + number) % 8 > 0)


@pytest.mark.parametrize(("keep", "verdict"), [(1.0, "fell"), (0.95, "fell"), (0.8, "tolerated")])
def test_what_must_be_kept_is_a_share_of_the_bases_accuracy(keep: float, verdict: str) -> None:
    """One of eight right answers is lost: 87.5% are kept, more than 80% and significantly less than 95%."""
    base = rows(TAR, lambda *_: 1.0, 200, TASKS[:1])
    new = rows(TAR, lambda clip, number: float(clip % 8 > 0), 200, TASKS[:1])
    gate = compare_sweeps(data(base, "base"), data(new), keep)
    [overall] = gate.comparisons
    assert overall.verdict == verdict
    assert gate.green == (verdict == "tolerated")
    assert overall.retention is not None
    assert overall.retention.mean == pytest.approx(overall.new.mean / overall.base.mean)


def test_green_on_few_questions_states_the_detectable_fall() -> None:
    base = rows(TAR, thirds, 5, TASKS[:2])
    gate = compare_sweeps(data(base, "base"), data(base))
    assert gate.green
    [power] = [note for note in notes(gate) if note.startswith("Green does not mean equal")]
    assert "with 5 videos, an overall fall below" in power
    assert gate.comparisons[0].detectable > 0.3
    large = rows(TAR, thirds, 500, TASKS[:2])
    assert compare_sweeps(data(large, "base"), data(large)).comparisons[0].detectable < 0.05
    assert compare_sweeps(data(large, "base"), data(large), 0.9).comparisons[0].detectable > 0.08


# --- What is missing --------------------------------------------------------------------------------------------------


def test_a_cell_that_is_gone_or_failed_is_red_unless_allowed() -> None:
    base = [row for cell in CELLS for row in rows(cell, thirds)]
    new = [row for row in base if row.cell != VAN and (row.cell != TAR or row.clip != "0-002.mp4")]
    failures = [Failure(TAR, "0-002.mp4", "OutOfMemoryError: no room")]
    gate = compare_sweeps(data(base, "base"), data(new, failures=failures))
    assert not gate.green
    assert [str(missing) for missing in gate.missing] == [
        "tar 25%, seed 0: 4 of 24 questions have no answer: OutOfMemoryError: no room",
        "van 25%, seed 0: 24 of 24 questions have no answer",
    ]
    assert compare_sweeps(data(base, "base"), data(new), allow_missing=True).green
    assert compare_sweeps(data(new, "base"), data(base)).green


def test_a_seed_that_is_gone_is_missing() -> None:
    base = rows(TAR, thirds) + rows(replace(TAR, seed=1), thirds)
    gate = compare_sweeps(data(base, "base"), data(base[:24]))
    assert [(missing.cell.seed, missing.lacking) for missing in gate.missing] == [(1, 24)]


def test_methods_and_budgets_can_be_picked() -> None:
    base = [row for cell in CELLS for row in rows(cell, thirds)]
    new = [row for row in base if row.cell != VAN]
    gate = compare_sweeps(data(base, "base"), data(new), methods=["tar"])
    assert gate.green
    assert {found.method for found in gate.comparisons} == {"tar"}
    assert {found.method for found in compare_sweeps(data(base), data(new), budgets=["100%"]).comparisons} == {"full"}
    with pytest.raises(UnknownNameError, match="Did you mean 'tar'"):
        compare_sweeps(data(base), data(new), methods=["tra"])
    with pytest.raises(UnknownNameError, match="budget of these sweeps '50%'"):
        compare_sweeps(data(base), data(new), budgets=["50%"])


def test_a_sweep_without_answers_is_named() -> None:
    with pytest.raises(SweepError, match="new holds no answers to compare: complete its sweep with --resume"):
        compare_sweeps(data(rows(TAR, thirds), "base"), data([], "new"))


def test_sweeps_that_share_nothing_cannot_be_compared() -> None:
    with pytest.raises(SweepError, match="share no scored question"):
        compare_sweeps(data(rows(TAR, thirds), "base"), data(rows(VAN, thirds)))
    with pytest.raises(SweepError, match="share no scored question"):
        compare_sweeps(data(rows(TAR, lambda *_: None), "base"), data(rows(TAR, thirds)))


def test_answers_that_need_a_judge_are_counted_and_left_out() -> None:
    base = rows(TAR, lambda clip, number: None if number == 3 else 1.0)
    gate = compare_sweeps(data(base, "base"), data(base))
    assert gate.unscored == 6
    assert {found.task for found in gate.comparisons} == {OVERALL, *TASKS[:3]}
    assert any("6 questions need a judge" in note for note in notes(gate))


# --- Differences of conditions ----------------------------------------------------------------------------------------


def changed(found: Sequence[Row], part: str, **values: Any) -> list[Row]:
    change = remeasured if part == "measured" else replace
    return [replace(row, **{part: change(getattr(row, part), **values)}) for row in found]


@pytest.mark.parametrize("name", ["prompt", "expected", "task"])
def test_other_questions_are_not_compared(name: str) -> None:
    base = rows(TAR, thirds)
    with pytest.raises(SweepError, match=rf"The {name} of 24 questions is not the same.*clip 0-000.mp4, question 0"):
        compare_sweeps(data(base, "base"), data(changed(base, "answered", **{name: "other"})))


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"frames": 8}, "frames: 16 → 8"),
        ({"versions": {"torch": "3", "numpy": "2"}}, "torch: 2 → 3"),
        ({"versions": {"torch": "2", "numpy": "2"}}, "numpy: not set → 2"),
        ({"attention": "eager"}, "attention: sdpa → eager"),
        ({"settings": {"recent_ratio": 0.5}}, "setting recent_ratio of tar: 0.25 → 0.5"),
        ({"bytes": 4096}, "tar 25% holds +100% bytes"),
    ],
)
def test_conditions_that_differ_are_named(values: dict[str, Any], warning: str) -> None:
    base = rows(TAR, thirds)
    gate = compare_sweeps(data(base, "base"), data(changed(base, "measured", **values)))
    assert warning in gate.warnings
    assert f"Not the same in both: {warning}." in notes(gate)
    assert gate.green


def test_a_difference_on_some_clips_says_on_how_many() -> None:
    base = rows(TAR, thirds)
    gate = compare_sweeps(data(base, "base"), data(base[:20] + changed(base[20:], "measured", frames=8)))
    assert gate.warnings == ["frames: 16 → 8 (1 of 6 cells × clips)"]


def test_setups_that_differ_are_named_and_code_may_differ() -> None:
    base = rows(TAR, thirds)
    before, after = ({"setup": {"max_new_tokens": tokens, "batch": 8}, "revision": str(tokens)} for tokens in (16, 4))
    new = changed(base, "measured", revision="f" * 40 + "-dirty")
    gate = compare_sweeps(data(base, "base", plan=before), data(new, plan=after))
    assert gate.warnings == ["max_new_tokens: 16 → 4"]
    assert (gate.base, gate.new) == ("base (0123456789)", f"new ({'f' * 10}-dirty)")


# --- The command ------------------------------------------------------------------------------------------------------


def store(folder: Path, score: Callable[[Cell], Score], clips: int = 24, order: Sequence[Cell] = CELLS) -> Path:
    plan = {"setup": {"batch": 8}, "cells": [asdict(cell) for cell in order], "clips": {}}
    with Store(folder, plan) as made:
        for clip in range(clips):
            for cell in order:
                made.add(done(cell, clip, score(cell)))
    return folder


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", tuple(dict.fromkeys([*cli.COMMANDS, command])))


def lost(cell: Cell) -> Score:
    """`tar` loses every third answer."""
    return lambda clip, number: thirds(clip, number) * (cell != TAR or (clip + number) % 3 > 0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sweep, and one in which `tar` is worse."""
    folder = tmp_path_factory.mktemp("sweeps")
    return store(folder / "base", lambda cell: thirds), store(folder / "worse", lost)


@pytest.fixture
def base(stores: tuple[Path, Path], commands: None) -> Path:
    return stores[0]


@pytest.fixture
def worse(stores: tuple[Path, Path], commands: None) -> Path:
    return stores[1]


def test_stores_are_compared_by_the_command(
    base: Path, worse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = store(tmp_path / "same", lambda cell: thirds, order=CELLS[::-1])
    assert cli.main(["compare", str(base), str(same)]) == 0
    text = capsys.readouterr().out
    assert text.rstrip().splitlines()[-1].startswith("GREEN: ")
    assert "Not the same in both" not in text

    assert cli.main(["compare", str(base), str(worse)]) == 1
    text = capsys.readouterr().out
    assert "FELL: tar 25%, overall, on world by bundled: .88 → .58, -.29 [" in text
    assert "96 questions on 24 videos" in text
    assert max(len(line) for line in text.splitlines() if "%" in line and line.startswith(" tar")) <= 80
    assert " base " not in text
    assert text.rstrip().splitlines()[-1].startswith("RED: ")
    assert cli.main(["compare", str(base), str(worse), "--wide"]) == 1
    assert " base " in capsys.readouterr().out
    assert cli.main(["compare", str(base), str(worse), "--methods", "full,van"]) == 0
    assert cli.main(["compare", str(base), str(worse), "--fail-under", "50%"]) == 0
    assert cli.main(["compare", str(base), str(worse), "--fail-under", "0.9"]) == 1


def test_markdown_and_json(base: Path, worse: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(base), str(worse), "--format", "markdown"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("## ❌ RED: ")
    assert "<details><summary>by task</summary>\n\n| method |" in text
    rows_of_tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows_of_tables} == {10}
    assert len(rows_of_tables) == (2 + 3) + (2 + 15)

    assert cli.main(["compare", str(base), str(worse), "--format", "json"]) == 1
    gate = json.loads(capsys.readouterr().out)
    assert gate["green"] is False
    assert len(gate["comparisons"]) == 15
    fell = [found for found in gate["comparisons"] if found["verdict"] == "fell"]
    assert {found["method"] for found in fell} == {"tar"}
    assert fell[0]["difference"]["low"] < fell[0]["difference"]["mean"] < 0


def test_missing_answers_fail_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fewer = store(tmp_path / "fewer", lambda cell: thirds, order=(FULL, TAR))
    assert cli.main(["compare", str(base), str(fewer)]) == 1
    assert "MISSING: van 25%, seed 0: 96 of 96 questions have no answer" in capsys.readouterr().out
    assert cli.main(["compare", str(base), str(fewer), "--allow-missing"]) == 0


def test_what_cannot_be_compared_is_an_error(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(base), str(tmp_path / "nothing")]) == 2
    assert "No sweep in" in capsys.readouterr().err
    other = store(tmp_path / "other", lambda cell: thirds, order=(replace(TAR, seed=7),))
    assert cli.main(["compare", str(base), str(other)]) == 2
    assert "share no scored question" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["95", "0", "-1", "1.5", "101%", "much", "nan"])
def test_an_invalid_share_is_refused_at_once(share: str, capsys: pytest.CaptureFixture[str], commands: None) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", "base", "new", f"--fail-under={share}"])
    assert stopped.value.code == 2
    assert "write 0.95 or 95%" in capsys.readouterr().err


def test_one_video_gives_no_interval_and_no_alarm() -> None:
    base, new = rows(TAR, lambda *_: 1.0, 1), rows(TAR, lambda *_: 0.0, 1)
    gate = compare_sweeps(data(base, "base"), data(new))
    assert gate.green
    assert json.loads(as_json(gate))["comparisons"][0]["difference"]["error"] is None
    assert "[-1.00, +1.00]" in markdown(gate)
    assert gate.comparisons[0].detectable == 1


# --- The workflow -----------------------------------------------------------------------------------------------------

WORKFLOW = Path(__file__).parents[2] / ".github" / "workflows" / "compare.yml"


def steps() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    return workflow, workflow["jobs"]["compare"]["steps"]


def test_the_workflow_runs_on_pull_requests_and_reads_only() -> None:
    workflow, _ = steps()
    assert set(workflow[True]) == {"pull_request", "push"}
    assert workflow["permissions"] == {"contents": "read"}


def test_every_command_of_the_workflow_is_one_of_ours() -> None:
    workflow, all_steps = steps()
    parser = cli_parser()
    seen = []
    for line in "\n".join(step.get("run", "") for step in all_steps).splitlines():
        if "bin/kvpress-video " in line:
            written = line.split("bin/kvpress-video ")[1].split(" >> ")[0].split(" || ")[0]
            arguments = shlex.split(written.replace("$GRID", workflow["env"]["GRID"]))
            seen.append(parser.parse_args(arguments))
    assert len(seen) == 4
    swept = [vars(options) | {"run": None} for options in seen if hasattr(options, "out")]
    assert swept[0] == swept[1]
    grid = make_grid(**flag_parts(**{name: swept[0][name] for name in ("methods", "budgets", "benchmarks", "device")}))
    assert len(grid.cells()) == 17
    assert {(str(options.base), str(options.new)) for options in seen if hasattr(options, "new")} == {
        ("base-sweep", "sweep")
    }


def test_what_the_workflow_makes_is_there_to_be_made() -> None:
    _, all_steps = steps()
    made = {line.split()[3] for step in all_steps for line in step.get("run", "").splitlines() if "make -C" in line}
    assert made == {".venv/.ready"}
    assert "\n.venv/.ready:" in (WORKFLOW.parents[2] / "Makefile").read_text()


def test_no_step_of_the_workflow_reads_what_none_sets() -> None:
    _, all_steps = steps()
    known = {step["id"] for step in all_steps if "id" in step}
    assert known == {"key", "base", "new"}
    assert set(re.findall(r"steps\.(\w+)\.", WORKFLOW.read_text())) == known


def cli_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for module in dict.fromkeys([*cli.COMMANDS, command]):
        module.add(commands)
    return parser
