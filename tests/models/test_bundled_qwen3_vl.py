"""The bundled Qwen3-VL is a stock checkpoint, and reads the times that its processor writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

import kvpress_video as kv
from kvpress_video.models.loading import load_bundled, load_model
from kvpress_video.sweep.benchmark import same_words
from kvpress_video.utils.model_names import BUNDLED_FOLDERS
from kvpress_video.video.prompt import prepare

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip, Question

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="needs transformers 5")


@pytest.fixture(scope="module")
def timed() -> tuple[Any, Any]:
    return load_bundled("qwen3_vl", device="cpu", dtype=torch.float32)


def asked(clip: Clip) -> tuple[Question, ...]:
    from kvpress_video.benchmarks.world.clips import when_was_it

    return (*clip.questions, when_was_it(clip))


def marks(answers: Sequence[str], questions: Sequence[Question]) -> list[bool]:
    return [same_words(said, question.answer) for said, question in zip(answers, questions, strict=True)]


def respond(model: Any, processor: Any, clip: Clip) -> tuple[str, list[str]]:
    """The prompt of the first question, and the answers to all about a clip."""
    inputs = prepare(processor, kv.read_video(clip.path), [question.text for question in asked(clip)])
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    prompt = processor.decode(inputs["input_ids"][0])
    return prompt, processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_it_is_a_small_stock_model_in_eval_mode(timed: tuple[Any, Any]) -> None:
    model, processor = timed
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert type(processor).__name__ == "Qwen3VLProcessor"
    assert model.config.vision_config.deepstack_visual_indexes
    assert not model.training


def test_a_grid_names_it_like_any_model(timed: tuple[Any, Any]) -> None:
    model, _ = load_model("bundled-qwen3_vl:dtype=float32", device="cpu")
    assert model.config.model_type == "qwen3_vl"
    assert model.num_parameters() == timed[0].num_parameters()


def test_its_files_take_six_megabytes_in_half_precision() -> None:
    weights = Path(kv.__file__).parent / "data" / BUNDLED_FOLDERS["qwen3_vl"] / "model.safetensors"
    assert weights.stat().st_size < 6_000_000
    assert load_bundled("qwen3_vl", device="cpu")[0].dtype == torch.bfloat16


def test_it_answers_better_than_chance_and_tells_seconds(timed: tuple[Any, Any], clips: list[Clip]) -> None:
    """Chance is about one in six, and one in eight for the second."""
    right, seconds = [], []
    for clip in clips:
        prompt, answers = respond(*timed, clip)
        assert all(f"<{second}.2 seconds>" in prompt for second in range(clip.frames))
        *others, when = marks(answers, asked(clip))
        right += others
        seconds.append(when)
    assert sum(right) > 0.6 * len(right)
    assert sum(seconds) >= len(seconds) / 2


@pytest.mark.parametrize("labels", ["spread", "drop", "keep"])
def test_a_prompt_is_compressed_with_its_labels(timed: tuple[Any, Any], clips: list[Clip], labels: Any) -> None:
    model, processor = timed
    with kv.compress(model, "infinipot-v", 64, labels=labels) as run:
        _, answers = respond(model, processor, clips[0])
    held = run.report
    assert max(held.entries) + max(held.label_entries) == 64
    assert (max(held.label_entries) > 0) == (labels == "spread")
    assert sum(marks(answers, asked(clips[0]))) > 2


def test_a_session_answers_within_its_budget(timed: tuple[Any, Any], clips: list[Clip]) -> None:
    model, processor = timed
    session = kv.VideoSession(model, processor, "infinipot-v", 96)
    session.push(kv.read_video(clips[0].path).frames)
    answers = [session.ask(question.text, keep=False, max_new_tokens=8) for question in asked(clips[0])]
    stats = session.stats
    assert 0 < max(stats.label_entries) <= 24
    assert max(stats.entries) + max(stats.label_entries) <= 96
    assert sum(marks(answers, asked(clips[0]))) > 2
