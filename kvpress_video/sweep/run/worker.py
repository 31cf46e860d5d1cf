"""The worker of a sweep: it answers the questions about a clip in every cell of a task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from ...budget import Budget
from ...compression import Report, check_achieved, compress
from ...compressor.base import Compressor
from ...compressor.registry import make_method
from ...errors import BenchmarkError, BudgetError, UnknownNameError
from ...models.devices import device_of
from ...models.loading import load_model
from ...prefill.shared import SharedPrefill
from ...utils.named_settings import parse
from ...video.prompt import encode, prompt_text
from ...video.reader import Video
from ...video.resolution import frame_pixels
from ..benchmark import BENCHMARKS, Benchmark, Clip, Question, read_clip
from ..cells import Cell, Setup, Task
from ..results.records import Answered, Done, Failure, Measured, Outcome
from .environment import device_name, git_revision, versions


@dataclass
class Worker:
    """Answers questions, with one model loaded at a time.

    Attributes:
        setup: setup of the sweep.
        device: device of models that name none; the setup's by default.
    """

    setup: Setup = field(default_factory=Setup)
    device: str | None = None
    _loaded: str | None = field(default=None, init=False)
    _model: Any = field(default=None, init=False)
    _processor: Any = field(default=None, init=False)
    _broken: dict[str, str] = field(default_factory=dict, init=False)
    _shared: SharedPrefill = field(default_factory=SharedPrefill, init=False)

    def run(self, task: Task) -> Iterator[Outcome]:
        """Yield the outcome of each cell, in order.

        A cell that fails does not stop the others. If the model or the video cannot be read, all of them fail.
        """
        self._shared.clear()
        try:
            self._load(task.model)
            clip = _Prepared.of(task, self._processor, self.setup)
        except Exception as error:
            yield from (Failure(cell, task.clip.name, _describe(error)) for cell in task.cells)
            return
        for cell in task.cells:
            yield self._outcome(cell, clip)

    def _load(self, name: str) -> None:
        """Load the model of a task unless it is loaded.

        Raises:
            UnknownNameError: it cannot be loaded, now or at an earlier attempt.
        """
        if self._loaded == name:
            return
        if name in self._broken:
            raise UnknownNameError(self._broken[name])
        self._loaded = self._model = self._processor = None
        self._shared = SharedPrefill()
        try:
            self._model, self._processor = load_model(name, self.device or self.setup.device)
        except Exception as error:
            self._broken[name] = f"The model {name!r} cannot be loaded: {error}"
            raise UnknownNameError(self._broken[name]) from error
        self._loaded = name

    def _outcome(self, cell: Cell, clip: _Prepared) -> Outcome:
        """Answer a cell; if memory runs out, free the shared prefill and try once more."""
        text = ""
        for _ in range(2):
            try:
                return self._answer(cell, clip)
            except torch.OutOfMemoryError as error:
                text = _describe(error)
            except Exception as error:
                return Failure(cell, clip.clip.name, _describe(error))
            self._shared.clear()
            torch.cuda.empty_cache()
        return Failure(cell, clip.clip.name, text)

    def _answer(self, cell: Cell, clip: _Prepared) -> Done:
        method, budget = seeded(cell), Budget.parse(cell.budget)
        reports: list[tuple[Report, int]] = []
        replies: list[str] = []
        seconds = 0.0
        for batch, count in clip.batches:
            inputs = batch.to(device_of(self._model))
            asked = budget.for_rows(count)
            started = time.perf_counter()
            try:
                report, answers = self._generate(inputs, cell, method, asked, clip.max_new_tokens)
            except BudgetError:
                if budget.unit == "bytes" and count > 1:
                    self._explain(clip, len(replies), inputs, cell, method, budget)
                raise
            seconds += time.perf_counter() - started
            check_achieved(asked, report)
            reports.append((report, count))
            replies += answers
        measured = self._measured(cell, clip, reports, seconds)
        answered = tuple(
            Answered(
                question=question.id,
                task=question.task,
                category=question.category,
                unit=question.unit,
                prompt=prompt,
                answer=reply,
                expected=question.expected,
                score=checked_score(clip.benchmark, question, reply),
            )
            for question, prompt, reply in zip(clip.clip.questions, clip.prompts, replies, strict=True)
        )
        return Done(cell, clip.clip.name, measured, answered)

    def _explain(
        self, clip: _Prepared, first: int, inputs: Any, cell: Cell, method: Compressor, budget: Budget
    ) -> None:
        """Ask the longest question of a batch alone, whose error names the bytes of one question as the budget does.

        Raises:
            BudgetError: the budget is too small for it.
        """
        longest = first + int(inputs["attention_mask"].sum(dim=1).argmax())
        alone = encode(self._processor, clip.video, [clip.prompts[longest]])
        self._generate(alone.to(device_of(self._model)), cell, method, budget, clip.max_new_tokens)

    def _generate(
        self, inputs: Any, cell: Cell, method: Compressor, budget: Budget, most: int
    ) -> tuple[Report, list[str]]:
        shared = self._shared if self.setup.reuse else None
        with compress(self._model, method, budget, shared=shared, **self.setup.options(cell)) as run:
            output = self._model.generate(**inputs, max_new_tokens=most, do_sample=False)
            replies = output[:, inputs["input_ids"].shape[1] :].tolist()
        texts = self._processor.tokenizer.batch_decode(replies, skip_special_tokens=True)
        return run.report, [text.strip() for text in texts]

    def _measured(self, cell: Cell, clip: _Prepared, reports: Sequence[tuple[Report, int]], seconds: float) -> Measured:
        fullest, _ = max(reports, key=lambda one: sum(one[0].entries))
        prefill = sum(report.prefill_seconds for report, _ in reports)
        compressing = sum(report.compress_seconds for report, _ in reports)
        height, width = clip.video.frames.shape[1:3]
        return Measured(
            report=replace(
                fullest,
                method=cell.method,
                asked=cell.budget,
                bytes=max(report.bytes // count for report, count in reports),
                peak_bytes=max(report.peak_bytes // count for report, count in reports),
                full_bytes=max(report.full_bytes // count for report, count in reports),
                prefill_seconds=prefill,
                compress_seconds=compressing,
                shared=reports[0][0].shared,
            ),
            video=clip.clip.video,
            group=clip.clip.group,
            frames=len(clip.video),
            fps=clip.video.fps,
            pixels=f"{height}x{width}",
            answer_seconds=seconds - prefill - compressing,
            dtype=str(self._model.dtype).removeprefix("torch."),
            attention=str(self._model.config._attn_implementation),
            device=device_name(self._model.device),
            versions=versions(),
            revision=git_revision(),
        )


@dataclass(frozen=True)
class _Prepared:
    """A clip, read and tokenised.

    Attributes:
        clip, benchmark: clip and benchmark of the task.
        video: the frames of the clip.
        prompts: prompts of all questions, in order.
        batches: inputs of `generate()`, on the CPU, and the number of questions in each.
        max_new_tokens: maximum number of tokens of an answer.
    """

    clip: Clip
    benchmark: Benchmark
    video: Video
    prompts: list[str]
    batches: list[tuple[Any, int]]
    max_new_tokens: int

    @classmethod
    def of(cls, task: Task, processor: Any, setup: Setup) -> _Prepared:
        """Read the video of a task and tokenise the prompts about it.

        Raises:
            QuestionError: a question contains a special token of the model.
            VideoError: the video cannot be read.
        """
        clip, benchmark = task.clip, BENCHMARKS.make(task.benchmark)
        prompts = [prompt_text(processor, question.text) for question in clip.questions]
        video = read_clip(clip, frame_pixels(processor))
        groups = [prompts[start : start + setup.batch] for start in range(0, len(prompts), setup.batch)]
        batches = [(encode(processor, video, group), len(group)) for group in groups]
        most = benchmark.max_new_tokens if setup.max_new_tokens is None else setup.max_new_tokens
        return cls(clip, benchmark, video, prompts, batches, most)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def seeded(cell: Cell) -> Compressor:
    """Make the cell's method, with the cell's seed if the method has one and its text does not set it."""
    method = make_method(cell.method)
    if "seed" in {field.name for field in fields(method)} and "seed" not in parse(cell.method)[1]:
        method = replace(method, seed=cell.seed)  # type: ignore[call-arg]
    return method


def checked_score(benchmark: Benchmark, question: Question, answer: str) -> float | None:
    """Score an answer and check that the score is valid.

    Raises:
        BenchmarkError: the score is neither a number from 0 to 1 nor None.
    """
    score = benchmark.score(question, answer)
    if score is None:
        return None
    try:
        number = float(score)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise BenchmarkError(
            f"{type(benchmark).__name__} scores the answer {answer!r} to question {question.id!r} with {score!r}: "
            "a score is a number from 0 to 1, or None."
        )
    return number
