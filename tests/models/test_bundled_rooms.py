"""The bundled model for the rooms is a stock checkpoint, and answers what its page says that it does."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_video.benchmarks.rooms.benchmark import Rooms

import kvpress_video as kv
from kvpress_video.models.loading import load_model

LEARNT = ("needle", "order", "count", "when", "persistent", "place", "scene")


@pytest.fixture(scope="module")
def rooms_model() -> tuple[Any, Any]:
    return load_model("bundled-rooms:dtype=float32", device="cpu")


def test_it_is_a_small_stock_model_in_eval_mode(rooms_model: tuple[Any, Any]) -> None:
    model, processor = rooms_model
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert model.num_parameters() < 8_000_000
    assert not model.training
    assert (kv.bundled_path("rooms") / "model.safetensors").stat().st_size < 20_000_000


@pytest.mark.slow
def test_it_answers_nine_of_ten_questions_of_the_learnt_families(rooms_model: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = rooms_model
    benchmark = Rooms(count=4, frames=64, families="+".join(LEARNT))
    right: dict[str, list[float]] = defaultdict(list)
    for clip in benchmark.clips(7, tmp_path):
        inputs = kv.prepare(processor, kv.read_video(clip.path), [question.text for question in clip.questions])
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for question, answer in zip(clip.questions, said, strict=True):
            right[question.task].append(benchmark.score(question, answer))
    assert set(right) == set(LEARNT)
    every = [mark for marks in right.values() for mark in marks]
    assert sum(every) >= 0.9 * len(every)
    assert all(sum(marks) >= 0.5 * len(marks) for marks in right.values())
