"""The command line, end to end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvpress_video.cli import main
from kvpress_video.registry import method_names
from kvpress_video.sweep.results import read_rows

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

COMMAND = [sys.executable, "-m", "kvpress_video.cli"]


def sweep(folder: Path, methods: str, budgets: str, clips: int = 4) -> list[str]:
    asked = ["--methods", methods, "--budgets", budgets, "--clips", str(clips), "--frames", "8", "--device", "cpu"]
    return ["sweep", *asked, "--out", str(folder)]


def test_a_short_demo_ends_in_its_table(tmp_path: Path) -> None:
    methods = "full,random,standby,infinipot-v:tar_ratio=.25"
    done = subprocess.run([*COMMAND, *sweep(tmp_path, methods, "50%,25%")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Still camera: 2 clips, 16 questions" in done.stdout
    assert "Moving camera: 2 clips, 16 questions" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    for method in methods.split(","):
        for budget in ["100%"] if method == "full" else ["50%", "25%"]:
            assert sum(line[:2] == [method, budget] for line in lines) == 2
    assert "28 of 28 cells × clips" in done.stdout.splitlines()[-1]
    assert "28/28" in done.stderr

    rows = read_rows(tmp_path / "rows.jsonl")
    assert len(rows) == 28 * 8
    assert {row.camera for row in rows} == {"still", "moving"}
    for row in rows:
        assert row.entries == [int(row.visual_tokens * float(row.budget.rstrip("%")) / 100)] * len(row.entries)
    assert {row.settings["tar_ratio"] for row in rows if row.method.startswith("infinipot-v")} == {0.25}
    with open(tmp_path / "summary.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert {record["family"] for record in records} >= {"needle", "place", "overall"}
    assert "## Moving camera" in (tmp_path / "table.md").read_text()


def test_a_cell_that_fails_shows_in_the_table_and_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One entry cannot hold a whole frame and a bank."""
    assert main([*sweep(tmp_path, "detachable,random", "1", clips=1), "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "detachable 1 failed: BudgetError" in out
    assert "1 of 2 cells × clips" in out
    assert json.loads((tmp_path / "failures.jsonl").read_text())["method"] == "detachable"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--methods", "nowelty"], "Did you mean 'novelty'"),
        (["sweep", "--budgets", "lots"], "Cannot read the budget 'lots'"),
        (["sweep", "--clips", "0", "--out", "{folder}"], "at least one clip"),
        (["sweep", "--clips", "1", "--frames", "4", "--model", "./nowhere", "--out", "{folder}"], "no model folder"),
        (["ask", "missing.mp4", "What?"], "There is no video missing.mp4"),
        (["ask", "missing.mp4", "What?", "--method", "tarr"], "Did you mean 'tar'"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("kvpress-video: ")]
    assert message in line


def test_ask_prints_the_answer_and_what_was_asked_and_achieved(
    clips: list[Clip], capsys: pytest.CaptureFixture[str]
) -> None:
    question = clips[0].questions[0].text
    asked = ["ask", str(clips[0].path), question, "--method", "tar", "--budget", "25%", "--device", "cpu"]
    assert main(asked) == 0
    answer, report = capsys.readouterr().out.splitlines()
    assert answer
    assert "16 frames" in report
    assert "tar at 25%: 32 of 128 visual entries" in report
    assert main([*asked, "--end", "4", "--fps", "1"]) == 0
    assert "4 frames" in capsys.readouterr().out


def test_ask_without_a_budget_for_a_method_that_needs_one(
    clips: list[Clip], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(clips[0].path), "What?", "--method", "tar", "--device", "cpu"]) == 2
    assert "'tar' needs a budget" in capsys.readouterr().err


def test_methods_lists_every_method_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if not line.startswith(" ")] == method_names()
    assert "settings: seed=0" in out
    assert "cannot be loaded" not in out


def test_help_needs_no_model() -> None:
    done = subprocess.run([*COMMAND, "sweep", "--help"], capture_output=True, text=True, check=True)
    assert "--budgets" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [*COMMAND, *sweep(tmp_path, "full,random,tar,van", "50%,25%,12.5%")]
    rows = tmp_path / "rows.jsonl"
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while not rows.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Interrupted" in out
    assert "Traceback" not in errors
    found = read_rows(rows)
    assert 0 < len(found) < 4 * 10 * 8
    assert len(found) % 8 == 0

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    every = read_rows(rows)
    assert every[: len(found)] == found
    assert len({(row.cell, row.clip, row.prompt) for row in every}) == len(every) == 4 * 10 * 8
