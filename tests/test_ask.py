"""One question about one video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvpress_video import BudgetError, UnknownNameError
from kvpress_video.question import ask
from kvpress_video.video.prompt import prepare
from kvpress_video.video.reader import read_video

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
    assert (report.method, report.settings, report.positions) == ("random:seed=7", {"seed": 7}, "compact")
    assert report.visual_tokens == 16 * clips[1].frames
    assert set(report.entries) == {report.visual_tokens // 4}
    assert 0 < report.bytes < report.full_bytes


def test_wrong_requests(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    video = read_video(clips[0].path)
    with pytest.raises(BudgetError, match="'tar' needs a budget"):
        ask(*bundled, video, "What?", method="tar")
    with pytest.raises(UnknownNameError, match="Did you mean 'tar'"):
        ask(*bundled, video, "What?", method="tarr", budget="25%")
