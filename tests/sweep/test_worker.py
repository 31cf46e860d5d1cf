"""The sweep's worker: all questions of a clip, in every cell, from one prefill."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kvpress_video.errors import BenchmarkError, UnknownNameError
from kvpress_video.models.loading import load_model
from kvpress_video.question import ask
from kvpress_video.sweep.benchmark import Benchmark, Clip, Question
from kvpress_video.sweep.cells import Cell, Setup, Task
from kvpress_video.sweep.results.records import Done, Failure
from kvpress_video.sweep.results.store import Store
from kvpress_video.sweep.run.worker import Worker, checked_score, seeded
from kvpress_video.video.reader import read_video

WORLD = "world:count=4,frames=8"
TIMES = {"prefill_seconds", "compress_seconds", "answer_seconds", "shared"}


def cell(method: str, budget: str = "50%", **others: Any) -> Cell:
    return Cell(method, budget, benchmark=WORLD, **others)


def task(clip: Clip, *cells: Cell) -> Task:
    return Task(cells[0].model, WORLD, 0, clip, cells)


def run(worker: Worker, clip: Clip, *cells: Cell) -> list[Done]:
    found = [outcome for outcome in worker.run(task(clip, *cells)) if isinstance(outcome, Done)]
    assert len(found) == len(cells)
    return found


def timeless(done: Done) -> dict[str, Any]:
    measured = {name: value for name, value in done.measured.as_dict().items() if name not in TIMES}
    return {**asdict(done), "measured": measured}


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(Setup(device="cpu"))


def test_all_questions_at_once_are_answered_as_one_by_one(
    worker: Worker, bundled: tuple[Any, Any], pieces: list[Clip]
) -> None:
    """Rows are padded, and share the prefill."""
    video = read_video(pieces[0].path)
    cells = cell("full", "100%"), cell("key-norm"), cell("standby"), cell("infinipot-v", "64")
    for one, done in zip(cells, run(worker, pieces[0], *cells), strict=True):
        for question, answered in zip(pieces[0].questions, done.answers, strict=True):
            alone = ask(*bundled, video, question.text, method=one.method, budget=one.budget, max_new_tokens=16)
            assert answered.answer == alone.text
            assert done.measured.report.entries == alone.report.entries


def test_cells_that_share_a_prefill_are_equal_to_cells_run_alone(worker: Worker, pieces: list[Clip]) -> None:
    methods = ("full", "tar", "van", "snapkv", "infinipot-v", "standby-novelty", "streammem", "hermes", "random")
    cells = [cell(method, budget) for method in methods for budget in (["100%"] if method == "full" else ["50%", "9%"])]
    cells += [cell("tar", "32"), cell("tar", "256KiB")]
    together = run(worker, pieces[1], *cells)
    apart = run(Worker(Setup(device="cpu", reuse=False)), pieces[1], *cells)
    assert [timeless(done) for done in together] == [timeless(done) for done in apart]
    shared, alone = ([done.measured.report.shared for done in found] for found in (together, apart))
    assert sum(shared) == len(cells) - 4  # first, two lengths of probes, two chunked
    assert not any(alone)


def test_small_batches_give_the_same_answers(worker: Worker, pieces: list[Clip]) -> None:
    cells = [cell("van"), cell("novelty", "20%")]
    whole = run(worker, pieces[2], *cells)
    small = run(Worker(Setup(device="cpu", batch=3)), pieces[2], *cells)
    assert [[one.answer for one in done.answers] for done in small] == [
        [one.answer for one in done.answers] for done in whole
    ]
    assert [done.measured.report.entries for done in small] == [done.measured.report.entries for done in whole]


def test_a_budget_too_small_for_a_question_names_its_bytes_and_not_the_batchs(
    worker: Worker, pieces: list[Clip]
) -> None:
    """The budget that the error asks for suffices: the budget of a grid is that of one question."""
    [failure] = worker.run(task(pieces[0], cell("tar", "4KiB")))
    assert isinstance(failure, Failure)
    found = re.fullmatch(
        r"BudgetError: 4KiB cannot hold the \d+ text entries in \d+ layers .* at least (.* MiB) \((\d+) bytes\)\.",
        failure.error,
    )
    assert found, failure.error
    for enough in (found[1], f"{found[2]}B"):
        [done] = run(worker, pieces[0], cell("tar", enough))
        assert done.measured.report.bytes <= int(found[2])
    [failure] = worker.run(task(pieces[0], cell("tar", f"{int(found[2]) - 1}B")))
    assert isinstance(failure, Failure)


def test_a_measurement_says_how_it_was_made(worker: Worker, pieces: list[Clip]) -> None:
    [done] = run(worker, pieces[1], cell("random:seed=3", "25%"))
    assert [answered.question for answered in done.answers] == [question.id for question in pieces[1].questions]
    measured, report = done.measured, done.measured.report
    assert (report.settings, report.stage, report.prefill, report.positions) == (
        {"seed": 3},
        "cache",
        "split",
        "keep",
    )
    assert (report.method, report.asked) == ("random:seed=3", "25%")
    assert (done.clip, measured.group, measured.video) == (pieces[1].name, "moving", pieces[1].video)
    assert (measured.frames, measured.fps, measured.pixels) == (16, 2.0, "112x112")
    assert (report.visual_tokens, report.entries, report.ratio) == (128, (32,) * 4, 0.25)
    assert measured.dtype == "float32"
    assert report.bytes < report.full_bytes
    assert report.bytes <= report.peak_bytes
    assert min(report.prefill_seconds, report.compress_seconds, measured.answer_seconds) > 0
    for question, answered in zip(pieces[1].questions, done.answers, strict=True):
        assert question.text in answered.prompt
        assert answered.score == float(answered.answer.casefold() == answered.expected.casefold())


@pytest.mark.parametrize(
    ("setup", "points"),
    [
        (
            Setup(device="cpu", batch=3),
            [("full", "100%"), ("snapkv", "25%"), ("average-pooling", "48"), ("van", "200KiB")],
        ),
        (
            Setup(device="cpu", positions="compact", labels="drop"),
            [("standby", "25%"), ("streammem", "48"), ("detachable", "50%")],
        ),
        (Setup(device="cpu", prefill="whole"), [("tar", "25%"), ("infinipot-v", "48")]),
        (Setup(device="cpu", stage="input"), [("random", "25%"), ("average-pooling", "48")]),
    ],
    ids=["split and chunked", "compact", "whole", "input"],
)
def test_a_store_returns_the_measurements_of_the_worker(
    setup: Setup, points: list[tuple[str, str]], pieces: list[Clip], tmp_path: Path
) -> None:
    """Three fields of a report are not stored: they follow from the cell and the columns."""
    cells = [cell(*point) for point in points]
    found = run(Worker(setup), pieces[0], *cells)
    with Store(tmp_path, {"cells": [asdict(cell) for cell in cells]}) as store:
        for done in found:
            store.add(done)
        stored = store.rows()
    assert stored == [row for done in found for row in done.rows]
    assert [row.as_dict() for row in stored] == [row.as_dict() for done in found for row in done.rows]


def test_a_budget_in_bytes_is_one_questions(worker: Worker, pieces: list[Clip]) -> None:
    [full] = run(worker, pieces[0], cell("full", "100%"))
    [half] = run(worker, pieces[0], cell("random", f"{full.measured.report.bytes // 2}B"))
    assert 0.9 * full.measured.report.bytes // 2 < half.measured.report.bytes <= full.measured.report.bytes // 2


def test_the_question_sees_nothing_but_the_compressed_cache(worker: Worker, pieces: list[Clip]) -> None:
    """With one entry of the video left, even the first word of an answer is a guess."""
    done = [run(worker, clip, cell("recent", "1"), cell("full", "100%")) for clip in pieces]
    scores = [[answered.score or 0 for one in pair for answered in one.answers] for pair in zip(*done, strict=True)]
    assert sum(scores[0]) < 0.5 * sum(scores[1])


def test_a_cell_that_fails_is_reported_and_the_others_go_on(worker: Worker, pieces: list[Clip]) -> None:
    """One entry cannot hold a whole frame and a bank."""
    outcomes = list(worker.run(task(pieces[0], cell("detachable", "1"), cell("tar"))))
    assert isinstance(outcomes[0], Failure)
    assert outcomes[0].error.startswith("BudgetError: ")
    assert outcomes[0].cell == cell("detachable", "1")
    assert isinstance(outcomes[1], Done)


@pytest.mark.parametrize("times", [1, 2])
def test_where_memory_runs_out_room_is_made_and_the_cell_tried_once_more(
    worker: Worker, pieces: list[Clip], monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    generate = worker._model.generate
    full = iter([False] + [True] * times + [False] * 2)

    def run_out(**kwargs: Any) -> Any:
        if next(full):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**kwargs)

    monkeypatch.setattr(worker._model, "generate", run_out)
    _, second, third = worker.run(task(pieces[0], cell("key-norm"), cell("van"), cell("tar")))
    if times == 2:
        assert isinstance(second, Failure)
        assert "OutOfMemoryError: CUDA out of memory" in second.error
    else:
        assert isinstance(second, Done)
        assert not second.measured.report.shared
    assert isinstance(third, Done)
    assert third.measured.report.shared == (times == 1)


def test_a_model_that_cannot_be_loaded_fails_its_cells_and_is_not_tried_again(
    pieces: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def load(text: str, device: str | None) -> Any:
        tried.append(text)
        raise OSError("no such file")

    worker = Worker(Setup(device="cpu"))
    monkeypatch.setattr("kvpress_video.sweep.run.worker.load_model", load)
    for clip in pieces[:2]:
        [failure] = worker.run(task(clip, cell("tar", model="nobody/nothing")))
        assert isinstance(failure, Failure)
        assert "nobody/nothing" in failure.error
        assert "no such file" in failure.error
    assert tried == ["nobody/nothing"]


@pytest.mark.parametrize(("score", "kept"), [(None, None), (1, 1.0), (np.float32(0.5), 0.5), (True, 1.0)])
def test_scores_are_plain_numbers(pieces: list[Clip], score: Any, kept: float | None) -> None:
    found = checked_score(scoring(score), pieces[0].questions[0], "red")
    assert found == kept
    assert type(found) in (float, type(None))


@pytest.mark.parametrize("score", ["a", 7.0, -0.1, float("nan"), [1]])
def test_scores_that_mean_nothing_are_refused(pieces: list[Clip], score: Any) -> None:
    with pytest.raises(BenchmarkError, match="from 0 to 1"):
        checked_score(scoring(score), pieces[0].questions[0], "red")


def scoring(score: Any) -> Benchmark:
    """Make a benchmark with the same score for every answer."""

    class Constant(Benchmark):
        def clips(self, seed: int, folder: Path) -> list[Clip]:
            return []

        def score(self, question: Question, answer: str) -> Any:
            return score

    return Constant()


def test_a_video_that_cannot_be_read_fails_every_cell_of_its_clip(worker: Worker, pieces: list[Clip]) -> None:
    missing = replace(pieces[0], path=Path("nowhere.mp4"))
    outcomes = list(worker.run(task(missing, cell("tar"), cell("van"))))
    assert [outcome.cell.method for outcome in outcomes] == ["tar", "van"]
    assert all(isinstance(outcome, Failure) and "nowhere.mp4" in outcome.error for outcome in outcomes)


def test_models_are_loaded_as_their_text_says(pieces: list[Clip]) -> None:
    half = cell("van", model="bundled:dtype=bfloat16,attention=eager")
    [done] = run(Worker(Setup(device="cpu")), pieces[0], half)
    assert (done.measured.dtype, done.measured.attention) == ("bfloat16", "eager")
    with pytest.raises(UnknownNameError, match="Did you mean 'dtype'"):
        load_model("bundled:dtyp=bfloat16")
    with pytest.raises(UnknownNameError, match="no model folder"):
        load_model("./nowhere")


def test_methods_that_draw_take_the_cells_seed() -> None:
    assert seeded(cell("random", seed=5)).describe() == {"seed": 5}
    assert seeded(cell("random:seed=3", seed=5)).describe() == {"seed": 3}
    assert seeded(cell("tar", seed=5)) == seeded(cell("tar"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_worker_on_a_gpu(pieces: list[Clip]) -> None:
    [done] = run(Worker(Setup(device="cuda")), pieces[0], cell("tar"))
    assert done.measured.device.startswith("cuda: ")
    assert done.measured.report.entries == (64,) * 4
