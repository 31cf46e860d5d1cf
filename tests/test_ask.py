"""One question about one video, and the sweep's worker that asks all questions of a clip at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from kvpress_video import BudgetError, UnknownNameError
from kvpress_video.ask import ask
from kvpress_video.prompt import prepare
from kvpress_video.sweep.tasks import Cell
from kvpress_video.sweep.worker import Setup, Worker
from kvpress_video.video import read_video

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip


def test_the_full_cache_answers_as_the_stock_model(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    model, processor = bundled
    video, question = read_video(clips[0].path), clips[0].questions[0].text
    answer = ask(model, processor, video, question)
    inputs = prepare(processor, video, question)
    stock = model.generate(**inputs, max_new_tokens=64, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert answer.text == processor.batch_decode(stock, skip_special_tokens=True)[0].strip()
    assert (answer.report.method, answer.report.ratio, answer.report.asked) == ("full", 1.0, "100%")
    assert answer.seconds > 0


def test_settings_and_budget_reach_the_report(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    video, question = read_video(clips[1].path), clips[1].questions[0].text
    answer = ask(*bundled, video, question, method="random", budget="25%", positions="compact", seed=7)
    report = answer.report
    assert (report.method, report.settings, report.positions) == ("random", {"seed": 7}, "compact")
    assert report.visual_tokens == 16 * clips[1].frames
    assert set(report.entries) == {report.visual_tokens // 4}
    assert 0 < report.bytes < report.full_bytes


def test_wrong_requests(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    video = read_video(clips[0].path)
    with pytest.raises(BudgetError, match="'tar' needs a budget"):
        ask(*bundled, video, "What?", method="tar")
    with pytest.raises(UnknownNameError, match="Did you mean 'tar'"):
        ask(*bundled, video, "What?", method="tarr", budget="25%")


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(Setup(device="cpu"))


def test_all_questions_at_once_are_answered_as_one_by_one(
    worker: Worker, bundled: tuple[Any, Any], clips: list[Clip]
) -> None:
    """Rows are padded, and share the vision tower's output."""
    video = read_video(clips[0].path)
    for cell in (Cell("full", "100%"), Cell("key-norm", "50%"), Cell("standby", "50%")):
        rows = worker.run(cell, clips[0])
        for row in rows:
            alone = ask(*bundled, video, row.question, method=cell.method, budget=cell.budget, max_new_tokens=16)
            assert row.answer == alone.text
            assert tuple(row.entries) == alone.report.entries


def test_a_row_says_how_it_was_made(worker: Worker, clips: list[Clip]) -> None:
    rows = worker.run(Cell("random:seed=3", "25%"), clips[1])
    assert [row.question for row in rows] == [question.text for question in clips[1].questions]
    row = rows[0]
    assert (row.method, row.budget, row.settings) == ("random:seed=3", "25%", {"seed": 3})
    assert (row.clip, row.camera, row.seed) == (clips[1].path.name, "moving", clips[1].seed)
    assert (row.frames, row.fps, row.pixels) == (16, 2.0, "112x112")
    assert (row.visual_tokens, row.entries, row.ratio) == (128, [32] * 4, 0.25)
    assert (row.model, row.dtype) == ("bundled", "float32")
    assert row.question in row.prompt
    assert row.bytes < row.full_bytes


def test_a_budget_in_bytes_is_one_prompts(worker: Worker, clips: list[Clip]) -> None:
    full = worker.run(Cell("full", "100%"), clips[0])[0].bytes
    row = worker.run(Cell("random", f"{full // 2}B"), clips[0])[0]
    assert 0.9 * full // 2 < row.bytes <= full // 2


def test_the_question_sees_nothing_but_the_compressed_cache(worker: Worker, clips: list[Clip]) -> None:
    """With one entry of the video left, even the first word of an answer is a guess."""
    right = [row.correct for clip in clips for row in worker.run(Cell("recent", "1"), clip)]
    whole = [row.correct for clip in clips for row in worker.run(Cell("full", "100%"), clip)]
    assert sum(right) < 0.5 * sum(whole)


def test_the_vision_tower_runs_once_per_clip(worker: Worker, clips: list[Clip]) -> None:
    calls: list[Any] = []
    handle = worker._model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        for cell in (Cell("full", "100%"), Cell("tar", "50%"), Cell("tar", "25%")):
            worker.run(cell, clips[2])
        assert len(calls) == 1
        worker.run(Cell("standby", "25%"), clips[2])  # it looks at the tower's attention
        assert len(calls) == 2
    finally:
        handle.remove()
    assert not {"get_video_features", "get_image_features"} & set(vars(worker._model.model))


def test_a_worker_takes_another_dtype_and_device(clips: list[Clip]) -> None:
    worker = Worker(Setup(device="cpu", dtype="bfloat16"))
    assert worker.run(Cell("van", "50%"), clips[0])[0].dtype == "bfloat16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_worker_on_a_gpu(clips: list[Clip]) -> None:
    row = Worker(Setup(device="cuda")).run(Cell("tar", "50%"), clips[0])[0]
    assert row.device.startswith("cuda: ")
    assert row.entries == [64] * 4
