"""A whole sweep: its tasks, interruptions and resumption."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_rows import done

from kvpress_video import sweep as sweeps
from kvpress_video.errors import BenchmarkError, SweepError
from kvpress_video.sweep import BENCHMARKS, Cell, Setup, Store, SweepResult, make_grid, run_sweep
from kvpress_video.sweep.benchmark import Clip, Question
from kvpress_video.sweep.cells import Task
from kvpress_video.sweep.results.records import Failure, Outcome
from kvpress_video.sweep.results.store import FILE
from kvpress_video.sweep.run import sweep
from kvpress_video.sweep.run.sweep import missing_tasks

WORLD = "world:count=3,frames=8"
GRID = make_grid(methods=["full", "tar", "van"], budgets=["50%", "25%"], benchmarks=WORLD)
QUESTIONS = Question("0", "What?", "red", "needle"), Question("1", "Where?", "up", "place")
CLIPS = [Clip(f"{number}.mp4", Path(f"{number}.mp4"), QUESTIONS, f"{number}.mp4") for number in range(3)]


class Fake:
    """An executor that needs no model: `van` at 25% fails, and Ctrl-C comes after `stop` outcomes."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.ran: list[tuple[Cell, str]] = []
        self.closed = False

    def run(self, tasks: Iterable[Task]) -> Generator[Outcome, None, None]:
        try:
            for task in tasks:
                for cell in task.cells:
                    if len(self.ran) == self.stop:
                        raise KeyboardInterrupt
                    self.ran.append((cell, task.clip.name))
                    if (cell.method, cell.budget) == ("van", "25%"):
                        yield Failure(cell, task.clip.name, "OutOfMemoryError: too much")
                    else:
                        yield replace(done(cell, 0, lambda *_: 1.0, ("needle", "place")), clip=task.clip.name)
        finally:
            self.closed = True


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(BENCHMARKS.get("world"), "clips", lambda self, seed, folder: CLIPS)
    return monkeypatch


def run(folder: Path, fake: Fake, ready: pytest.MonkeyPatch, grid: Any = GRID, **options: Any) -> SweepResult:
    ready.setattr(sweep, "choose", lambda *_: fake)
    return run_sweep(grid, folder, **options)


def test_tasks_hold_all_cells_of_a_clip_and_go_model_by_model() -> None:
    grid = make_grid(methods=["tar", "van"], budgets=["50%"], benchmarks=WORLD, seeds=[0, 1],
                     models=["bundled", "bundled:dtype=bfloat16"])  # fmt: skip
    cells, clips = grid.cells(), {(WORLD, 0): CLIPS, (WORLD, 1): CLIPS[:1]}
    tasks = list(missing_tasks(cells, clips, set()))
    assert [(task.model, task.seed, task.clip.name) for task in tasks] == [
        (model, seed, clip.name) for model in grid.models for seed in (0, 1) for clip in clips[WORLD, seed]
    ]
    assert all([cell.method for cell in task.cells] == ["tar", "van"] for task in tasks)
    finished = {(cells[0], "0.mp4"), *((cell, "1.mp4") for cell in cells[:2])}
    left = list(missing_tasks(cells[:2], clips, finished))
    assert [(task.clip.name, [cell.method for cell in task.cells]) for task in left] == [
        ("0.mp4", ["van"]),
        ("2.mp4", ["tar", "van"]),
    ]


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    swept = run(tmp_path, Fake(), ready)
    assert (swept.done, swept.jobs, swept.interrupted) == (12, 15, False)
    assert {(str(failure.cell), failure.error) for failure in swept.failures} == {
        ("van 25%", "OutOfMemoryError: too much")
    }
    assert len(swept.failures) == 3
    with Store(tmp_path) as store:
        assert len(store.rows()) == 12 * 2


def test_an_interrupted_sweep_is_resumed_with_the_missing_cells_only(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    fake = Fake(stop=7)
    first = run(tmp_path, fake, ready)
    assert (first.interrupted, first.done, fake.closed) == (True, 6, True)
    with pytest.raises(SweepError, match="resume"):
        run(tmp_path, Fake(), ready)
    again = Fake()
    second = run(tmp_path, again, ready, resume=True)
    assert (second.interrupted, second.done) == (False, 12)
    assert not set(again.ran) & {pair for pair in fake.ran if pair[0].budget != "25%" or pair[0].method != "van"}
    undisturbed = run(tmp_path / "other", Fake(), ready)
    with Store(tmp_path) as store, Store(undisturbed.folder) as other:
        assert store.rows() == other.rows()
        assert store.failures() == other.failures()


def test_cells_can_be_added_and_nothing_else_changed(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    run(tmp_path, Fake(), ready)
    fake = Fake()
    more = run(tmp_path, fake, ready, GRID.replaced(methods=["tar", "key-norm"]), resume=True)
    assert {cell.method for cell, _ in fake.ran} == {"key-norm"}
    assert (more.done, more.jobs) == (12, 12)
    with Store(tmp_path) as store:
        assert len(store.plan["cells"]) == 7
    with pytest.raises(SweepError, match="batch"):
        run(tmp_path, Fake(), ready, GRID.replaced(batch=2), resume=True)


def test_progress_counts_every_cell_and_clip_and_goes_on_where_it_stopped(
    tmp_path: Path, ready: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    run(tmp_path, Fake(stop=7), ready)
    run(tmp_path, Fake(), ready, resume=True, progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(done, 15) for done in range(7, 16)]


def test_a_model_spread_over_devices_gets_one_worker(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def choose(make: Any, kind: str, workers: int | None, *others: Any) -> Fake:
        asked.append(workers)
        return Fake()

    ready.setattr(sweep, "choose", choose)
    for number, (model, workers) in enumerate([("bundled", None), ("bundled:device_map=auto", None), ("bundled", 3)]):
        run_sweep(GRID.replaced(models=[model]), tmp_path / str(number), workers=workers)
    assert asked == [None, 1, 3]


def test_questions_that_changed_are_not_mixed_with_old_answers(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    run(tmp_path, Fake(stop=7), ready)
    changed = replace(CLIPS[1], questions=(replace(QUESTIONS[0], expected="blue"), QUESTIONS[1]))
    ready.setattr(BENCHMARKS.get("world"), "clips", lambda self, seed, folder: [CLIPS[0], changed, CLIPS[2]])
    with pytest.raises(SweepError, match=r"1 clips have other questions, world.*1\.mp4 first"):
        run(tmp_path, Fake(), ready, resume=True)
    ready.setattr(BENCHMARKS.get("world"), "clips", lambda self, seed, folder: CLIPS[:2])
    assert run(tmp_path, Fake(), ready, resume=True).jobs == 10


def videos(folder: Path, ready: pytest.MonkeyPatch) -> list[Clip]:
    """The clips with files of their own, the first and the second in one."""
    found = [replace(clip, path=folder / name) for clip, name in zip(CLIPS, ("a.mp4", "a.mp4", "b.mp4"), strict=True)]
    for clip in found:
        clip.path.write_bytes(b"video" * 1000)
    ready.setattr(BENCHMARKS.get("world"), "clips", lambda self, seed, folder: found)
    return found


def test_a_video_that_changed_is_not_mixed_with_old_answers(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    first, _, last = videos(tmp_path, ready)
    run(tmp_path / "sweep", Fake(stop=7), ready)  # the third clip has no answers yet
    with Store(tmp_path / "sweep") as store:
        assert store.plan["files"][f"{WORLD} seed 0"]["2.mp4"]["size"] == 5000
    last.path.write_bytes(b"another video")
    first.path.touch()
    run(tmp_path / "sweep", Fake(stop=1), ready, resume=True)
    first.path.write_bytes(b"video" * 999 + b"vidoe")
    with pytest.raises(SweepError, match=r"2 files have changed since .*, 0.mp4 of world.* seed 0 first: put the earl"):
        run(tmp_path / "sweep", Fake(), ready, resume=True)
    first.path.write_bytes(b"video" * 1000)
    assert run(tmp_path / "sweep", Fake(), ready, resume=True).done == 12
    last.path.write_bytes(b"video" * 1000)
    with pytest.raises(SweepError, match=r"1 files have changed since .*, 2.mp4 of world"):
        run(tmp_path / "sweep", Fake(), ready, resume=True)


def test_a_large_video_that_was_written_again_is_a_warning(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    first = videos(tmp_path, ready)[0]
    first.path.write_bytes(bytes(2**21))
    run(tmp_path / "sweep", Fake(), ready)
    os.utime(first.path, (1, 1))
    with pytest.warns(UserWarning, match=r"2 files were written again since .*, 0.mp4 of world"):
        run(tmp_path / "sweep", Fake(), ready, resume=True)


def test_a_checkpoint_that_changed_is_not_mixed_with_old_answers(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (model / name).write_text("one")
    grid = GRID.replaced(models=[f"{model}:dtype=float32"])
    run(tmp_path / "sweep", Fake(stop=7), ready, grid)
    (model / "README.md").write_text("two")
    run(tmp_path / "sweep", Fake(stop=1), ready, grid, resume=True)
    (model / "model.safetensors").write_text("two")
    with pytest.raises(SweepError, match=r"1 files have changed since .*, model.safetensors of model .*float32 first"):
        run(tmp_path / "sweep", Fake(), ready, grid, resume=True)


def test_a_store_that_knows_no_files_is_taken_up(tmp_path: Path, ready: pytest.MonkeyPatch) -> None:
    """As written before files were recorded."""
    first = videos(tmp_path, ready)[0]
    run(tmp_path / "sweep", Fake(stop=7), ready)
    with closing(sqlite3.connect(tmp_path / "sweep" / FILE)) as db, db:
        assert db.execute("DELETE FROM plan WHERE key = 'files'").rowcount == 1
    first.path.write_bytes(b"another")
    assert run(tmp_path / "sweep", Fake(), ready, resume=True).done == 12


def foreign(folder: Path, ready: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / FILE).write_text("method,budget\n" * 100)


def taken(folder: Path, ready: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / FILE).mkdir()


def answers(folder: Path, ready: pytest.MonkeyPatch) -> None:
    run(folder, Fake(), ready)


def other(folder: Path, ready: pytest.MonkeyPatch) -> None:
    run(folder, Fake(), ready, GRID.replaced(batch=3))


@pytest.mark.parametrize(
    ("prepare", "resume", "message"),
    [
        (foreign, False, "not written by a sweep: choose another folder"),
        (foreign, True, "not written by a sweep"),
        (taken, False, "is a folder and no sweep"),
        (answers, False, "already holds 24 answers"),
        (other, True, "holds another sweep: setup.batch is 3 there and 8 here"),
        (lambda folder, ready: folder.write_text(""), False, "Cannot write a sweep to .*: Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_any_clip_is_made(
    tmp_path: Path, ready: pytest.MonkeyPatch, prepare: Any, resume: bool, message: str
) -> None:
    prepare(tmp_path / "sweep", ready)
    ready.setattr(BENCHMARKS.get("world"), "clips", lambda self, seed, folder: pytest.fail("clips were made"))
    with pytest.raises(SweepError, match=message):
        run(tmp_path / "sweep", Fake(), ready, resume=resume)
    assert not (tmp_path / "sweep" / "clips").exists()


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "has no clips at seed 0"),
        ([CLIPS[0], CLIPS[0]], "are called '0.mp4'"),
        ([replace(CLIPS[0], questions=())], "asks nothing about the clip 0.mp4"),
        ([replace(CLIPS[0], questions=QUESTIONS[:1] * 2)], "about 0.mp4 are called '0'"),
    ],
)
def test_a_benchmark_with_ambiguous_names_is_refused(
    tmp_path: Path, ready: pytest.MonkeyPatch, clips: list[Clip], message: str
) -> None:
    ready.setattr(BENCHMARKS.get("world"), "clips", lambda self, seed, folder: clips)
    with pytest.raises(BenchmarkError, match=message):
        run(tmp_path, Fake(), ready)


def test_a_sweep_may_go_on_elsewhere_and_failures_are_those_of_its_cells(
    tmp_path: Path, ready: pytest.MonkeyPatch
) -> None:
    run(tmp_path, Fake(), ready)
    smaller = GRID.replaced(methods=["full", "tar"], device="cuda:0", reuse=False)
    assert run(tmp_path, Fake(), ready, smaller, resume=True).failures == ()


@pytest.mark.parametrize(("name", "said"), [("a\0b", "cannot hold a NUL character"), ("a" * 300, "File name too long")])
def test_a_folder_with_an_impossible_name(tmp_path: Path, ready: pytest.MonkeyPatch, name: str, said: str) -> None:
    with pytest.raises(SweepError, match=said):
        run(tmp_path / name, Fake(), ready)


def test_missing_files_are_told_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(BenchmarkError, match="nowhere"):
        run_sweep(make_grid(methods="full", budgets="50%", benchmarks="video-mme:path=nowhere"), folder)
    assert not (folder / "sweep.sqlite").exists()


def test_a_sweep_of_the_bundled_model_in_processes_and_here(tmp_path: Path) -> None:
    """The rows are the same."""
    grid = make_grid(methods=["full", "infinipot-v:tar_ratio=.25"], budgets=["25%"], benchmarks=WORLD, device="cpu")
    rows = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        if rows:
            (tmp_path / "1" / "clips").rename(tmp_path / "clips-kept")
            folder.mkdir()
            (tmp_path / "clips-kept").rename(folder / "clips")
        assert run_sweep(grid, folder, workers=workers).done == 6
        with Store(folder) as store:
            rows.append([(row.cell, row.clip, row.answered, row.measured.report.entries) for row in store.rows()])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6 * 8


@pytest.mark.parametrize("pattern", ["docs/*.md", "docs/methods/*.md", "notebooks/*.ipynb", "README.md"])
def test_guides_and_notebooks_import_from_the_face(pattern: str) -> None:
    """Their imports must not depend on the layout of the package."""
    shown = {
        name.split(" as ")[0].strip()
        for file in Path(__file__).parents[2].glob(pattern)
        for names in re.findall(r"from kvpress_video\.sweep(?:\.\w+)* import ([\w, ]+)", file.read_text())
        for name in names.split(",")
    }
    assert shown <= set(sweeps.__all__)
    for file in Path(__file__).parents[2].glob(pattern):
        assert "kvpress_video.sweep." not in file.read_text(), file


def test_the_setup_reaches_the_worker() -> None:
    worker = sweep.make_worker(Setup(batch=3), "cpu")
    assert (worker.setup.batch, worker.device) == (3, "cpu")
