"""The bundled models are stock checkpoints that know their world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kvpress_video import UnknownNameError
from kvpress_video.models.loading import load, load_bundled
from kvpress_video.sweep.benchmark import same_words
from kvpress_video.video.prompt import prepare
from kvpress_video.video.reader import read_video

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip


def test_it_is_a_small_stock_model_in_eval_mode(bundled: tuple[Any, Any]) -> None:
    model, processor = bundled
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    assert sum(parameter.numel() for parameter in model.parameters()) < 6_000_000
    assert not model.training


def test_it_answers_better_than_chance(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    """Chance is about one in six; a second of video is one frame of the model."""
    model, processor = bundled
    right = asked = 0
    for clip in clips:
        video = read_video(clip.path)
        inputs = prepare(processor, video, [question.text for question in clip.questions])
        assert torch.as_tensor(inputs["second_per_grid_ts"]).unique().tolist() == [1]
        assert inputs["video_grid_thw"][0, 0] == clip.frames
        output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(
            same_words(answer, question.answer) for answer, question in zip(answers, clip.questions, strict=True)
        )
        asked += len(clip.questions)
    assert right / asked > 0.6


def test_there_is_no_other() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown bundled model 'qwen3-vl'\. Did you mean 'qwen3_vl'"):
        load_bundled("qwen3-vl")
    with pytest.raises(UnknownNameError, match=r"Known: qwen2_5_vl, qwen3_vl"):
        load_bundled("cpu")


def test_device_dtype_and_attention_are_taken() -> None:
    model, _ = load_bundled(device="cpu", dtype=torch.bfloat16, attention="eager")
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")
    assert model.config._attn_implementation == "eager"


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no config\.json"):
        load(tmp_path)
    for path in (tmp_path / "missing", str(tmp_path / "missing"), "./missing"):
        with pytest.raises(UnknownNameError, match="There is no model folder"):
            load(path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownNameError, match="Cannot load a multimodal model"):
        load(tmp_path)
    with pytest.raises(UnknownNameError, match="not both"):
        load(tmp_path, device="cpu", device_map="auto")
