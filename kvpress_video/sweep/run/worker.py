"""Runs the cells of a task: one clip, its questions, every method and budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from ...budget import Budget
from ...compression import Report, compress
from ...compressor.base import Compressor
from ...compressor.registry import make_method, parse
from ...errors import BenchmarkError, BudgetError, UnknownNameError, unknown_name
from ...models.devices import device_of
from ...models.loading import load_named
from ...prefill.shared import SharedPrefill
from ...video.prompt import prepare, prompt_text
from ...video.reader import Video
from ...video.resolution import frame_pixels
from ..benchmark import BENCHMARKS, Benchmark, Clip, Question, read_clip
from ..cells import MODEL_SETTINGS, Cell, Setup, Task
from ..results.records import Answered, Done, Failure, Measured, Outcome
from .environment import device_name, git_revision, versions


@dataclass
class Worker:
    """Answers questions, with one model loaded at a time.

    Attributes:
        setup: what all cells share.
        device: where models go that name none; the setup's by default.
    """

    setup: Setup = field(default_factory=Setup)
    device: str | None = None
    _loaded: str | None = field(default=None, init=False)
    _model: Any = field(default=None, init=False)
    _processor: Any = field(default=None, init=False)
    _broken: dict[str, str] = field(default_factory=dict, init=False)
    _shared: SharedPrefill = field(default_factory=SharedPrefill, init=False)

    def run(self, task: Task) -> Iterator[Outcome]:
        """What comes of each cell, in order, as it comes. One that fails does not end the others, nor does a model that
        cannot be loaded.
        """
        self._shared.clear()
        try:
            self._load(task.model)
            clip = _Prepared.of(task, self._processor, self.setup)
        except Exception as error:
            yield from (Failure(cell, task.clip.name, _told(error)) for cell in task.cells)
            return
        for cell in task.cells:
            yield self._outcome(cell, clip)

    def _load(self, name: str) -> None:
        """Raises:
        UnknownNameError: the model cannot be loaded, now or the first time.
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
        """Where memory runs out, once more without what cells before it left there."""
        text = ""
        for _ in range(2):
            try:
                return self._answer(cell, clip)
            except torch.OutOfMemoryError as error:
                text = _told(error)
            except Exception as error:
                return Failure(cell, clip.clip.name, _told(error))
            self._shared.clear()
            torch.cuda.empty_cache()
        return Failure(cell, clip.clip.name, text)

    def _answer(self, cell: Cell, clip: _Prepared) -> Done:
        method, budget = seeded(cell), Budget.parse(cell.budget)
        reports, replies, seconds = [], [], 0.0
        for batch, count in clip.batches:
            inputs = batch.to(device_of(self._model))
            asked = budget.for_rows(count)
            started = time.perf_counter()
            report, answers = self._generate(inputs, method, asked, clip.max_new_tokens)
            seconds += time.perf_counter() - started
            check_achieved(asked, report)
            reports.append((report, count))
            replies += answers
        measured = self._measured(clip, method, reports, seconds)
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

    def _generate(self, inputs: Any, method: Compressor, budget: Budget, most: int) -> tuple[Report, list[str]]:
        how: Any = {"stage": self.setup.stage, "prefill": self.setup.prefill, "positions": self.setup.positions}
        with compress(self._model, method, budget, shared=self._shared if self.setup.reuse else None, **how) as run:
            output = self._model.generate(**inputs, max_new_tokens=most, do_sample=False)
            replies = output[:, inputs["input_ids"].shape[1] :].tolist()
        texts = self._processor.tokenizer.batch_decode(replies, skip_special_tokens=True)
        return run.report, [text.strip() for text in texts]

    def _measured(
        self, clip: _Prepared, method: Compressor, reports: Sequence[tuple[Report, int]], seconds: float
    ) -> Measured:
        fullest, _ = max(reports, key=lambda one: sum(one[0].entries))
        prefill = sum(report.prefill_seconds for report, _ in reports)
        compressing = sum(report.compress_seconds for report, _ in reports)
        height, width = clip.video.frames.shape[1:3]
        return Measured(
            settings=method.describe(),
            stage=fullest.stage,
            prefill=fullest.prefill,
            positions=fullest.positions,
            entries=list(fullest.entries),
            ratio=fullest.ratio,
            visual_tokens=fullest.visual_tokens,
            text_entries=fullest.text_entries,
            bytes=max(report.bytes // count for report, count in reports),
            peak_bytes=max(report.peak_bytes // count for report, count in reports),
            full_bytes=max(report.full_bytes // count for report, count in reports),
            video=clip.clip.video,
            group=clip.clip.group,
            frames=len(clip.video),
            fps=clip.video.fps,
            pixels=f"{height}x{width}",
            prefill_seconds=prefill,
            compress_seconds=compressing,
            answer_seconds=seconds - prefill - compressing,
            shared=reports[0][0].shared,
            dtype=str(self._model.dtype).removeprefix("torch."),
            attention=str(self._model.config._attn_implementation),
            device=device_name(self._model.device),
            versions=versions(),
            revision=git_revision(),
        )


@dataclass(frozen=True)
class _Prepared:
    """A clip as the model takes it.

    Attributes:
        clip, benchmark, video: what is asked about, by whom, and its frames.
        prompts: of all questions, in order.
        batches: inputs of `generate()`, on the CPU, and of how many questions.
        max_new_tokens: of an answer.
    """

    clip: Clip
    benchmark: Benchmark
    video: Video
    prompts: list[str]
    batches: list[tuple[Any, int]]
    max_new_tokens: int

    @classmethod
    def of(cls, task: Task, processor: Any, setup: Setup) -> _Prepared:
        """Raises:
        VideoError: the video cannot be read.
        """
        clip, benchmark = task.clip, BENCHMARKS.make(task.benchmark)
        video = read_clip(clip, frame_pixels(processor))
        batches = []
        for start in range(0, len(clip.questions), setup.batch):
            texts = [question.text for question in clip.questions[start : start + setup.batch]]
            batches.append((prepare(processor, video, texts), len(texts)))
        prompts = [prompt_text(processor, question.text) for question in clip.questions]
        most = benchmark.max_new_tokens if setup.max_new_tokens is None else setup.max_new_tokens
        return cls(clip, benchmark, video, prompts, batches, most)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def load_model(text: str, device: str | None = None) -> tuple[Any, Any]:
    """The model and processor that a cell's `model` names.

    Raises:
        UnknownNameError: there is no such model, or a setting does not exist.
    """
    name, settings = parse(text)
    for setting in settings:
        if setting not in MODEL_SETTINGS:
            raise unknown_name(f"setting of the model {name}", setting, MODEL_SETTINGS)
    if "device_map" not in settings:
        settings = {"device": device, **settings}
    return load_named(name, **settings)


def seeded(cell: Cell) -> Compressor:
    """The cell's method; one that draws takes the cell's seed unless its own is spelled out."""
    method = make_method(cell.method)
    if "seed" in {field.name for field in fields(method)} and "seed" not in parse(cell.method)[1]:
        method = replace(method, seed=cell.seed)  # type: ignore[call-arg]
    return method


def checked_score(benchmark: Benchmark, question: Question, answer: str) -> float | None:
    """What a benchmark thinks of an answer.

    Raises:
        BenchmarkError: it is no number from 0 to 1, nor None.
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


def check_achieved(budget: Budget, report: Report) -> None:
    """Raises:
    BudgetError: the cache holds more than the budget.
    """
    if budget.unit == "bytes":
        held, allowed, unit = report.bytes, int(budget.amount), "bytes"
    else:
        allowed = len(report.entries) * (
            budget.entries(report.visual_tokens) if budget.unit == "ratio" else int(budget.amount)
        )
        held, unit = sum(report.entries), "visual entries per KV head over all layers"
    if held > allowed:
        raise BudgetError(f"{report.method} holds {held} {unit} where {budget} allows {allowed}.")
