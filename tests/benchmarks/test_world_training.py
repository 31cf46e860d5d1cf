"""The bundled models: they answer, and their training sees what `generate()` will see."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kvpress_video.benchmarks.train.batches import IGNORED, Batch, Phrasebook, make_batch
from kvpress_video.benchmarks.train.course import Course
from kvpress_video.benchmarks.train.evaluate import answer, read_video
from kvpress_video.benchmarks.train.families import FAMILIES
from kvpress_video.benchmarks.train.packed_attention import NAME, use_packed_attention, whole_mask
from kvpress_video.benchmarks.train.step import Step, run
from kvpress_video.benchmarks.train.vision import vision_rotation
from kvpress_video.benchmarks.train.worlds import WORLDS
from kvpress_video.benchmarks.world import make_clips

from kvpress_video.models.loading import load_bundled

FRAMES = 12


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


def packed_logits(book: Phrasebook, model: Any, batch: Batch) -> torch.Tensor:
    """Logits at every place of the question blocks of a packed sequence, (B, Q, L, vocabulary)."""
    if model.model.language_model.config._attn_implementation != NAME:
        batch = dataclasses.replace(batch, mask=whole_mask(batch.mask))
    hidden, *_ = run(book.family, model, batch, vision_rotation(32, torch.device("cpu")))
    count, questions = batch.answer.shape[:2]
    logits: torch.Tensor = model.lm_head(hidden[:, 1 - batch.after.shape[1] :])
    return logits.view(count, questions, -1, logits.shape[-1])


def stock_positions(batch: Batch, book: Phrasebook, conversation: bool) -> tuple[Batch, torch.Tensor]:
    """The batch at the positions of the installed transformers, and which tokens behind the video are used (B, …)."""
    length = batch.answer_at[..., 0] + 1
    step = torch.arange((batch.after.shape[1] - 1) // length.shape[1])
    used = step < (length + (batch.answer != IGNORED).sum(-1))[..., None]
    used[:, 0 if conversation else slice(None)] &= step >= book.turn
    used = torch.nn.functional.pad(used.flatten(1), (1, 0), value=True)
    dice = torch.tensor([[0.3 if SINCE_FIVE else 0.9] * len(length), [0.0] * len(length)])
    positions = book.family.positions(batch.opening.visual, used, length - book.turn, dice, conversation)
    return dataclasses.replace(batch, positions=positions), used


def prompt_inputs(model: Any, batch: Batch, clip: int, after: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output of the processor for one clip and the tokens `after` it."""
    ids = torch.cat([batch.opening.ids, after])[None]
    extra = {"mm_token_type_ids": 2 * (ids == model.config.video_token_id).long()} if SINCE_FIVE else {}
    spaced = {"second_per_grid_ts": torch.tensor([1.0])} if model.config.model_type == "qwen2_5_vl" else {}
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": batch.patches.view(len(batch.after), -1, batch.patches.shape[-1])[clip],
        "video_grid_thw": torch.tensor([[FRAMES, 8, 8]]),
        **extra,
        **spaced,
    }


@pytest.fixture(scope="module", params=[name for name in FAMILIES if SINCE_FIVE or name == "qwen2_5_vl"])
def trained(request: pytest.FixtureRequest) -> tuple[Phrasebook, Any]:
    """The phrasebook and the bundled model of a family, in fp32."""
    model, processor = load_bundled(request.param, device="cpu", dtype=torch.float32)
    return Phrasebook(FAMILIES[request.param], WORLDS["world"], processor.tokenizer, torch.device("cpu")), model


def draw(book: Phrasebook, seed: int, conversation: bool = False) -> Batch:
    """Two clips at times that the family draws."""
    seconds = book.family.seconds(FRAMES, random.Random(seed))
    return make_batch(book, 2, seconds, torch.Generator().manual_seed(seed), conversation)


@torch.no_grad()
def test_training_on_packed_questions_equals_asking_them_one_by_one(trained: tuple[Phrasebook, Any]) -> None:
    book, model = trained
    batch, _ = stock_positions(draw(book, 11), book, False)
    packed = packed_logits(book, model, batch)
    questions = len(book.plan)
    blocks = batch.after[:, 1:].view(2, questions, -1)
    for clip, question in itertools.product(range(2), range(questions)):
        at = batch.answer_at[clip, question]
        prompt = torch.cat([batch.after[clip, :1], blocks[clip, question, book.turn : at[0] + 1]])
        inputs = prompt_inputs(model, batch, clip, prompt)
        alone = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        said = alone.sequences[0, inputs["input_ids"].shape[1] :]
        for step, token in enumerate(said):
            torch.testing.assert_close(alone.logits[step][0], packed[clip, question, at[step]], atol=1e-3, rtol=1e-3)
            if token != batch.answer[clip, question, step]:
                break


@torch.no_grad()
def test_training_on_a_conversation_equals_one_prompt_that_holds_it(trained: tuple[Phrasebook, Any]) -> None:
    book, model = trained
    batch, used = stock_positions(draw(book, 12, conversation=True), book, True)
    packed = packed_logits(book, model, batch).flatten(1, 2)
    for clip in range(2):
        inputs = prompt_inputs(model, batch, clip, batch.after[clip][used[clip]])
        alone = model(**inputs).logits[0, -int(used[clip].sum()) :]
        torch.testing.assert_close(alone[1:], packed[clip][used[clip, 1:]], atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("conversation", [False, True])
def test_packed_attention_equals_a_mask(trained: tuple[Phrasebook, Any], conversation: bool) -> None:
    book, model = trained
    batch = draw(book, 13, conversation)
    masked = packed_logits(book, model, batch)
    packed = copy.deepcopy(model)
    use_packed_attention(packed.model.language_model)
    found = packed_logits(book, packed, batch)
    for question, at in enumerate(batch.answer_at[0]):
        torch.testing.assert_close(found[0, question, at], masked[0, question, at], atol=1e-4, rtol=1e-4)


def test_a_second_is_answered_with_the_digits_of_its_label(trained: tuple[Phrasebook, Any]) -> None:
    book, _ = trained
    opening = book.opening((7.25, 41.0, 305.5))
    texts = [book.tokenizer.decode(row[row != IGNORED], skip_special_tokens=True) for row in opening.seconds]
    assert texts == ["7", "41", "305"]
    assert opening.digits.tolist() == [[7, 10, 10], [1, 4, 10], [5, 0, 3]]


def test_a_training_step_learns(trained: tuple[Phrasebook, Any]) -> None:
    book, model = trained
    model = copy.deepcopy(model)
    step = Step(model, book, torch.Generator().manual_seed(0))
    before = model.lm_head.weight.clone()
    step.set_rate(1e-4)
    step(2, (0.25, 1.25))
    report = step.report()
    assert report["answer"] < 1
    assert set(report["accuracy"]) == {2}
    assert not torch.equal(before, model.lm_head.weight)


def test_the_weakest_family_is_asked_alone(trained: tuple[Phrasebook, Any]) -> None:
    book, model = trained
    step = Step(copy.deepcopy(model), book, torch.Generator().manual_seed(0))
    step.set_rate(0.0)
    course = Course(book.world, 128)
    course.learn({2: {"still": {"needle": 0.9, "count": 0.2}, "moving": {"needle": 0.9, "count": 0.9}}}, step.kinds)
    assert [step.kinds[number] for number in course.weakest] == ["count"]
    step(2, (0.25, 1.25), only=course.weakest)
    assert set(step.report()["accuracy"][2]["still"]) == {"count"}
