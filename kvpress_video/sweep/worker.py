"""Answers the questions of one clip in one cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..budget import Budget
from ..bundled import load_bundled
from ..compression import Compression, Positions, Report, Stage, compress
from ..errors import BudgetError
from ..loading import load
from ..prompt import prepare, prompt_text
from ..registry import make_method
from ..video import read_video
from .environment import device_name
from .rows import Row
from .tasks import Cell, same_answer

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

ENCODERS = ("get_video_features", "get_image_features")


@dataclass(frozen=True)
class Setup:
    """What all cells of a sweep share.

    Attributes:
        model: a folder or hub name; None for the bundled model.
        device, dtype, attention: as in `load`.
        stage, positions: as in `compress`.
        max_new_tokens: of an answer.
        versions, revision: what the rows are made with.
    """

    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    stage: Stage = "cache"
    positions: Positions = "keep"
    max_new_tokens: int = 16
    versions: dict[str, str] = field(default_factory=dict)
    revision: str | None = None


class Worker:
    """A loaded model that runs one cell on one clip at a time; the clip before is decoded and encoded once."""

    def __init__(self, setup: Setup) -> None:
        """Raises:
        UnknownNameError: the model cannot be loaded.
        """
        how: Any = {"device": setup.device, "dtype": setup.dtype, "attention": setup.attention}
        self._model: Any
        self._model, self._processor = load_bundled(**how) if setup.model is None else load(setup.model, **how)
        self._setup = setup
        self._clip: _Prepared | None = None

    def run(self, cell: Cell, clip: Clip) -> list[Row]:
        """The rows of all questions about a clip.

        Raises:
            BudgetError: the cache holds more than was asked for.
        """
        if self._clip is None or self._clip.path != clip.path:
            self._clip = self._prepare(clip)
        method, asked, count = make_method(cell.method), Budget.parse(cell.budget), len(clip.questions)
        budget = Budget(asked.amount * count, "bytes") if asked.unit == "bytes" else asked
        once = self._clip.encode_once if "vision_attention" not in method.needs else nullcontext
        stage, positions = self._setup.stage, self._setup.positions
        with once(), compress(self._model, cell.method, budget, stage=stage, positions=positions) as run:
            started = time.perf_counter()
            output = self._model.generate(
                **self._clip.inputs, max_new_tokens=self._setup.max_new_tokens, do_sample=False
            )
            replies = output[:, self._clip.inputs["input_ids"].shape[1] :].tolist()
            seconds = time.perf_counter() - started
        check_achieved(budget, run)
        answers = [self._processor.tokenizer.decode(reply, skip_special_tokens=True).strip() for reply in replies]
        return self._rows(cell, clip, answers, run.report, seconds)

    def _prepare(self, clip: Clip) -> _Prepared:
        video = read_video(clip.path)
        questions = [question.text for question in clip.questions]
        inputs = prepare(self._processor, video, questions).to(self._model.device)
        height, width = video.frames.shape[1:3]
        texts = [prompt_text(self._processor, question) for question in questions]
        shared = {"frames": len(video), "fps": video.fps, "pixels": f"{height}x{width}"}
        return _Prepared(Path(clip.path), inputs, texts, shared, self._model.base_model)

    def _rows(self, cell: Cell, clip: Clip, answers: list[str], report: Report, seconds: float) -> list[Row]:
        assert self._clip is not None
        shared = {
            "method": cell.method,
            "budget": cell.budget,
            "settings": report.settings,
            "stage": report.stage,
            "positions": report.positions,
            "entries": list(report.entries),
            "ratio": report.ratio,
            "visual_tokens": report.visual_tokens,
            "text_entries": report.text_entries,
            "bytes": report.bytes // len(answers),
            "full_bytes": report.full_bytes // len(answers),
            "clip": Path(clip.path).name,
            "camera": clip.camera,
            "seed": clip.seed,
            "seconds": seconds,
            "model": self._setup.model or "bundled",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": str(self._model.config._attn_implementation),
            "device": device_name(self._model.device),
            "versions": self._setup.versions,
            "revision": self._setup.revision,
            **self._clip.shared,
        }
        return [
            Row(
                **shared,
                family=question.family,
                question=question.text,
                prompt=prompt,
                answer=answer,
                expected=question.answer,
                correct=same_answer(answer, question.answer),
            )
            for question, prompt, answer in zip(clip.questions, self._clip.texts, answers, strict=True)
        ]


@dataclass
class _Prepared:
    path: Path
    inputs: Any
    texts: list[str]
    shared: dict[str, Any]
    inner: Any
    encoded: dict[tuple, Any] = field(default_factory=dict)

    @contextmanager
    def encode_once(self) -> Iterator[None]:
        """Within it, the vision tower sees each group of this clip's frames the first time only."""
        for name in ENCODERS:
            if hasattr(self.inner, name):
                setattr(self.inner, name, self._remembered(name, getattr(self.inner, name)))
        try:
            yield
        finally:
            for name in ENCODERS:
                self.inner.__dict__.pop(name, None)

    def _remembered(self, name: str, encode: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(encode)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            content = (value.contiguous().view(torch.uint8).cpu().numpy().tobytes() for value in given)
            key = (name, *(blake2b(part).digest() for part in content))
            if key not in self.encoded:
                self.encoded[key] = encode(*args, **kwargs)
            return self.encoded[key]

        return call


def check_achieved(budget: Budget, run: Compression) -> None:
    """Raises:
    BudgetError: the cache holds more than the budget.
    """
    report = run.report
    if budget.unit == "bytes":
        held, allowed, unit = report.bytes, int(budget.amount), "bytes"
    else:
        allowed = len(report.entries) * (
            budget.entries(report.visual_tokens) if budget.unit == "ratio" else int(budget.amount)
        )
        held, unit = sum(report.entries), "visual entries per KV head over all layers"
    if held > allowed:
        raise BudgetError(f"{report.method} holds {held} {unit} where {budget} allows {allowed}.")
