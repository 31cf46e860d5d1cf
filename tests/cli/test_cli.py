"""The command line, end to end."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running_sweeps import answered
from sweep_rows import done

import kvpress_video as kv
from kvpress_video.cli import main
from kvpress_video.compressor.registry import method_names
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Row
from kvpress_video.sweep.results.store import Store

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

COMMAND = [sys.executable, "-m", "kvpress_video.cli"]


def sweep(folder: Path, methods: str, budgets: str, clips: int = 4) -> list[str]:
    asked = ["--methods", methods, "--budgets", budgets, "--benchmarks", f"world:count={clips},frames=8"]
    return ["sweep", *asked, "--device", "cpu", "--out", str(folder), "--overlay-clips", "0"]


def rows_of(folder: Path) -> list[Row]:
    with Store(folder) as store:
        return store.rows()


@pytest.mark.slow
def test_a_short_demo_ends_in_its_table(tmp_path: Path) -> None:
    methods = "full,random,standby,infinipot-v:tar_ratio=.25"
    command = [*COMMAND, *sweep(tmp_path, methods, "50%,25%"), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "still: 2 clips, 16 questions" in done.stdout
    assert "moving: 2 clips, 16 questions" in done.stdout
    table = done.stdout.split("Every video is compressed")[0]
    assert max(map(len, table.splitlines())) <= 80
    lines = [line.split() for line in table.splitlines()]
    for method in ("random", "standby", "infinipot-v:tar_ratio=0.25"):
        assert sum(line[:1] == [method] for line in lines) == 2
    assert sum(line[:1] == ["full"] for line in lines) == 2
    assert "28 of 28 cells × clips" in done.stdout.splitlines()[-1]
    reported = done.stderr.splitlines()
    assert reported[0] == "preparing clips and models"
    assert reported[1] == "1 of 28 cells × clips done"
    assert reported[-1] == "28 of 28 cells × clips done"

    rows = rows_of(tmp_path)
    assert len(rows) == 28 * 8
    assert {row.measured.group for row in rows} == {"still", "moving"}
    for row in rows:
        report = row.measured.report
        kept = int(report.visual_tokens * float(row.cell.budget.rstrip("%")) / 100)
        assert report.entries == (kept,) * len(report.entries)
    infinipot = [row.measured.report for row in rows if row.cell.method.startswith("infinipot-v")]
    assert {report.settings["tar_ratio"] for report in infinipot} == {0.25}
    with open(tmp_path / "summary.csv", newline="") as file:
        records = list(csv.DictReader(file))
    assert {record["task"] for record in records} >= {"needle", "place", "overall"}
    assert "moving" in (tmp_path / "table.md").read_text()
    assert "<html" in (tmp_path / "report.html").read_text()


def test_a_cell_that_fails_shows_in_the_table_and_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One entry cannot hold a whole frame and a bank."""
    assert main([*sweep(tmp_path, "detachable,random", "1", clips=1), "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "detachable 1" in out
    assert "failed: BudgetError" in out
    assert "1 of 2 cells × clips" in out


def test_a_grid_file_is_run_and_flags_win_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("methods: [tar, {random: {seed: 3}}]\nbudgets: 50%\nbenchmarks: {world: {count: 1, frames: 8}}\n")
    folder = tmp_path / "swept"
    run = ["sweep", str(grid), "--device", "cpu", "--workers", "1", "--out", str(folder), "--overlay-clips", "0"]
    assert main([*run, "--budgets", "25%"]) == 0
    assert [str(cell) for cell in dict.fromkeys(row.cell for row in rows_of(folder))] == [
        "tar 25%",
        "random:seed=3 25%",
    ]
    assert main([*run, "--budgets", "25%"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*run, "--resume"]) == 0
    assert len({row.cell for row in rows_of(folder)}) == 4


def test_a_dry_run_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*sweep(tmp_path / "swept", "full,tar", "50%,25%", clips=2), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3" in out
    assert "prefill" in out
    assert not (tmp_path / "swept").exists()


def test_the_commands_read_what_a_sweep_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`results`, `report` and `compare`, on the same sweep."""
    folder = tmp_path / "swept"
    assert main([*sweep(folder, "full,tar", "25%", clips=2), "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["results", str(folder), "--method", "tar"]) == 0
    assert len(list(csv.DictReader(capsys.readouterr().out.splitlines()))) == 16
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "--out", str(page), "--overlay-clips", "1", "--device", "cpu"]) == 0
    assert page.stat().st_size > 10_000
    assert main(["compare", str(folder), str(folder)]) == 0


def test_report_and_results_of_an_interrupted_sweep_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [Cell("full", "100%"), Cell("tar", "50%")]
    clips = {"world seed 0": {f"0-00{number}.mp4": "" for number in range(3)}}
    with Store(tmp_path, {"cells": [asdict(cell) for cell in cells], "clips": clips}) as store:
        store.add(done(cells[0], 0, lambda *_: 1.0))
    said = "Incomplete: 1 of 6 cells × clips have run; the command of the sweep with --resume runs the others."
    table = tmp_path / "table.md"
    assert main(["report", str(tmp_path), "--overlay-clips", "0", "--markdown", str(table)]) == 0
    assert f"\n\n{said}\n\n" in table.read_text()
    assert f"{said}</p>" in (tmp_path / "report.html").read_text()
    assert said in capsys.readouterr().err
    assert main(["results", str(tmp_path)]) == 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--methods", "nowelty"], "Did you mean 'novelty'"),
        (["sweep", "--budgets", "lots"], "Cannot read the budget 'lots'"),
        (["sweep", "--against", "tra", "--methods", "tar"], "Did you mean 'tar'"),
        (["sweep", "--benchmarks", "wrld"], "Did you mean 'world'"),
        (["sweep", "nowhere.yaml"], "nowhere.yaml"),
        (["sweep", "--executor", "rai", "--out", "{folder}", "--benchmarks", "world:count=1,frames=2"], "'ray'"),
        (["sweep", "--benchmarks", "world:count=0", "--out", "{folder}"], "at least one clip"),
        (["sweep", "--benchmarks", "world:clips=1", "--out", "{folder}"], "--benchmarks: Unknown setting of world"),
        (["sweep", "--models", "./nowhere", "--out", "{folder}"], "no model folder"),
        (["results", "{folder}"], "{folder}"),
        (["report", "{folder}"], "{folder}"),
        (["compare", "{folder}", "{folder}"], "{folder}"),
        (["look", "missing.mp4", "--methods", "tar", "--budget", "10%"], "There is no video missing.mp4"),
        (["ask", "missing.mp4", "What?"], "There is no video missing.mp4"),
        (["ask", "missing.mp4", "What?", "--method", "tarr"], "Did you mean 'tar'"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("kvpress-video: ")]
    assert message.format(folder=tmp_path) in line


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


def test_a_warning_is_one_line_and_shown_once(clips: list[Clip], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ask", str(clips[0].path), "What?", "--method", "tar", "--budget", "1", "--device", "cpu"]
    assert main(asked) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "budget" in line]
    assert line.startswith("kvpress-video: The budget '1' is read as one visual entry per layer: write '1 token'")


def test_ask_without_a_budget_for_a_method_that_needs_one(
    clips: list[Clip], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(clips[0].path), "What?", "--method", "tar", "--device", "cpu"]) == 2
    assert "'tar' needs a budget" in capsys.readouterr().err


def test_methods_lists_every_method_in_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    assert max(map(len, capsys.readouterr().out.split("\n\n")[0].splitlines())) <= 80
    assert main(["methods", "--wide"]) == 0
    heading, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert heading.split() == ["method", "year", "idea", "fidelity", "stages", "needs", "source"]
    assert [row.split()[0] for row in rows] == method_names()
    (row,) = [row for row in rows if row.startswith("snapkv")]
    assert row.split()[:6] == ["snapkv", "2024", "attention", "mechanism", "cache", "queries"]
    assert "arXiv 2404.14469" in row
    assert not any("cannot be loaded" in row for row in rows)


def test_methods_prints_the_card_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "snapkv"]) == 0
    card = Path(__file__).parents[2] / "docs" / "methods" / "snapkv.md"
    marks = ("<!-- published -->\n", "<!-- /published -->\n")
    shown = "".join(line for line in card.read_text().splitlines(keepends=True) if line not in marks)
    assert capsys.readouterr().out == shown
    assert main(["methods", "snapvk"]) == 2
    assert "Did you mean 'snapkv'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ada", "fresh", "mod"])
def test_a_card_fits_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These hold links, a command of several lines, and tables wider than 80 columns."""
    for variable, value in {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(variable, value)
    assert main(["methods", name]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) == 80
    for markdown in ("**", "](", "| ---", "<!--"):
        assert markdown not in shown
    assert "Formula. " in shown
    assert "1.5625%" in shown


NAMES = ("sweep", "tune", "results", "report", "look", "compare", "ask", "run", "serve", "methods", "models", "bench",
         "concordance", "probe")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_help_describes_the_command_and_gives_an_example_in_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    usage, description, *_ = text.split("\n\n")
    assert usage.startswith("usage: kvpress-video")
    assert len(description.split()) >= 8
    assert f"  kvpress-video {name}" in text[text.index("Example") :]
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_of_all_commands_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"kvpress-video {kv.__version__}\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_keeps_what_is_finished_and_resume_goes_on(tmp_path: Path) -> None:
    command = [*COMMAND, *sweep(tmp_path, "full,random,tar,van", "50%,25%,12.5%", clips=16), "--workers", "2"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 300
    while not answered(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    out, errors = running.communicate(timeout=300)
    assert running.returncode == 130, errors
    assert "--resume" in out
    assert "Traceback" not in errors
    found = rows_of(tmp_path)
    assert 0 < len(found) < 16 * 10 * 8
    assert len(found) % 8 == 0

    again = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    every = rows_of(tmp_path)
    assert {id_of(row): row for row in found}.items() <= {id_of(row): row for row in every}.items()
    assert len({id_of(row) for row in every}) == len(every) == 16 * 10 * 8


def id_of(row: Row) -> tuple[Cell, str, str]:
    return row.cell, row.clip, row.answered.question
