"""The bundled model: it answers, and its training sees what `generate()` will see."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kvpress_video.benchmarks.train.batches import IGNORED, TOKENS, Batch, Phrasebook, _positions, make_batch
from kvpress_video.benchmarks.train.evaluate import answer, read_video
from kvpress_video.benchmarks.train.model import SpriteProbe, see, vision_rotation
from kvpress_video.benchmarks.train.step import Step
from kvpress_video.benchmarks.world import make_clips
from kvpress_video.benchmarks.world.questions import PLAN

from kvpress_video.models.loading import load_bundled


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    return load_bundled(device="cpu")


def test_the_bundled_model_answers_through_file_processor_and_generate(
    bundled: tuple[Any, Any], tmp_path: Path
) -> None:
    model, processor = bundled
    marks = [
        answer(model, processor, read_video(clip.path), question.text) == question.answer
        for clip in make_clips(2, 8, folder=tmp_path)
        for question in clip.questions
    ]
    assert sum(marks) >= len(marks) - 1


SINCE_FIVE = int(transformers.__version__.split(".")[0]) >= 5


def packed_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits at every place of the question blocks of a packed sequence, (B, Q, L, vocabulary)."""
    seen = see(model.model.visual, batch.patches, vision_rotation(32, torch.device("cpu")))
    embed = model.get_input_embeddings()
    count, questions = batch.answer.shape[:2]
    parts = [embed(batch.before).expand(count, -1, -1), seen.view(count, -1, 192), embed(batch.after)]
    hidden = model.model.language_model(
        inputs_embeds=torch.cat(parts, dim=1),
        position_ids=batch.positions,
        attention_mask={"full_attention": batch.mask},
        use_cache=False,
    ).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[:, 1 - batch.after.shape[1] :])
    return logits.view(count, questions, -1, logits.shape[-1])


def stock_positions(batch: Batch, book: Phrasebook, frames: int, conversation: bool) -> tuple[Batch, torch.Tensor]:
    """The batch at the positions of the installed transformers, and which tokens behind the video are used (B, …)."""
    length = batch.answer_at[..., 0] + 1
    step = torch.arange((batch.after.shape[1] - 1) // len(PLAN))
    used = step < (length + (batch.answer != IGNORED).sum(-1))[..., None]
    used[:, 0 if conversation else slice(None)] &= step >= book.turn
    used = torch.nn.functional.pad(used.flatten(1), (1, 0), value=True)
    dice = torch.tensor([[0.3 if SINCE_FIVE else 0.9] * len(length), [0.0] * len(length)])
    positions = _positions(used, length - book.turn, frames, dice, conversation)
    return dataclasses.replace(batch, positions=positions), used


def prompt_inputs(model: Any, batch: Batch, clip: int, frames: int, after: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the processor would make of one clip and the tokens `after` it."""
    video = torch.full((frames * TOKENS,), model.config.video_token_id)
    ids = torch.cat([batch.before, video, after])[None]
    extra = {"mm_token_type_ids": 2 * (ids == model.config.video_token_id).long()} if SINCE_FIVE else {}
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": batch.patches.view(len(batch.after), -1, batch.patches.shape[-1])[clip],
        "video_grid_thw": torch.tensor([[frames, 8, 8]]),
        "second_per_grid_ts": torch.tensor([1.0]),
        **extra,
    }


@torch.no_grad()
def test_training_on_packed_questions_equals_asking_them_one_by_one(bundled: tuple[Any, Any]) -> None:
    model, processor = bundled
    frames = 12
    book = Phrasebook(processor.tokenizer, torch.device("cpu"))
    batch, _ = stock_positions(make_batch(book, 2, frames, torch.Generator().manual_seed(11)), book, frames, False)
    packed = packed_logits(model, batch)
    blocks = batch.after[:, 1:].view(2, len(PLAN), -1)
    for clip, question in itertools.product(range(2), range(len(PLAN))):
        at = batch.answer_at[clip, question]
        prompt = torch.cat([batch.after[clip, :1], blocks[clip, question, book.turn : at[0] + 1]])
        inputs = prompt_inputs(model, batch, clip, frames, prompt)
        alone = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        said = alone.sequences[0, inputs["input_ids"].shape[1] :]
        for step, token in enumerate(said):
            torch.testing.assert_close(alone.logits[step][0], packed[clip, question, at[step]], atol=1e-3, rtol=1e-3)
            if token != batch.answer[clip, question, step]:
                break


@torch.no_grad()
def test_training_on_a_conversation_equals_one_prompt_that_holds_it(bundled: tuple[Any, Any]) -> None:
    model, processor = bundled
    frames = 12
    book = Phrasebook(processor.tokenizer, torch.device("cpu"))
    batch = make_batch(book, 2, frames, torch.Generator().manual_seed(12), conversation=True)
    batch, used = stock_positions(batch, book, frames, True)
    packed = packed_logits(model, batch).flatten(1, 2)
    for clip in range(2):
        inputs = prompt_inputs(model, batch, clip, frames, batch.after[clip][used[clip]])
        alone = model(**inputs).logits[0, -int(used[clip].sum()) :]
        torch.testing.assert_close(alone[1:], packed[clip][used[clip, 1:]], atol=1e-3, rtol=1e-3)


def test_a_training_step_learns(bundled: tuple[Any, Any]) -> None:
    model, processor = bundled
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    step = Step(model, SpriteProbe(192), Phrasebook(processor.tokenizer, generator.device), generator)
    before = model.lm_head.weight.clone()
    step.set_rate(1e-4)
    step(2, 2)
    report = step.report()
    assert report["answer"] < 1
    assert set(report["accuracy"]) == {2}
    assert not torch.equal(before, model.lm_head.weight)
