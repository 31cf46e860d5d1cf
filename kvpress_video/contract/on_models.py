"""Rules on the bundled models: a method inside `compress()` and `VideoSession`, from prompt to answer."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..budget import Budget
from ..compression import Compression, Report, compress
from ..compressor.base import Compressor, even
from ..errors import KVPressVideoError
from ..models import adapter_for
from ..models.loading import load_bundled
from ..prefill.options import PrefillOptions, check_supported
from ..streaming.session import VideoSession
from ..video.prompt import prompt_text
from ..video.video import Video
from .trial import Broken, Subject, Trial, always, caches, prunes

_SIDE, _FRAMES = 112, 16
_QUESTIONS = ("What is it?", "How many of them were there before the last one?")
_TOKENS, _CHUNK = 64, 32
_TOLERANCE = 1e-3  # of logits, in fp32
_ALIKE = 0.95  # padding changes rounding, and rounding may swap entries that nearly tie


FAMILIES = ("qwen2_5_vl", "qwen3_vl")
"""Bundled models on which methods are tried, one of each family."""


class Bundled(NamedTuple):
    """A bundled model, its processor, and the inputs of one prompt per question, about different videos."""

    model: Any
    processor: Any
    prompts: tuple[Any, ...]
    batch: Any


@cache
def bundled(family: str) -> Bundled:
    """Load a bundled model and make its prompts, once per process."""
    model, processor = load_bundled(family, device="cpu", dtype=torch.float32)
    videos = [_video(seed) for seed in range(len(_QUESTIONS))]
    rows = list(zip(videos, _QUESTIONS, strict=True))
    return Bundled(model, processor, tuple(_inputs(processor, [row]) for row in rows), _inputs(processor, rows))


def not_claimed(family: str, method: Compressor) -> str:
    """Return why a method does not run on a bundled model, such as a transformers without it; empty if it runs."""
    try:
        check_supported(adapter_for(bundled(family).model), method, PrefillOptions(stage=_stage(method)))
    except KVPressVideoError as error:
        return str(error)
    return ""


def on_model(family: str) -> tuple[Trial, ...]:
    """Return the rules on one bundled model."""
    rules = (
        ("answers as the stock model with a budget for everything", _stock_answers, always),
        ("meets a ratio exactly, with the positions of entries as they were", _keeps_positions, caches),
        ("meets a ratio exactly, with compact positions", _compact_positions, caches),
        ("meets a number of tokens exactly, in chunks", _chunks, caches),
        ("keeps the same entries of a row in a padded batch as of the row alone", _padded_batch, caches),
        ("drops embeddings before prefill", _before_prefill, prunes),
        ("meets its budget in a stream, with the positions of entries as they were", partial(_stream, "keep"), caches),
        ("meets its budget in a stream, with compact positions", partial(_stream, "compact"), caches),
    )
    return tuple(Trial(f"{rule} ({family})", partial(run, bundled(family)), True, applies=applies)
                 for rule, run, applies in rules)  # fmt: skip


def _video(seed: int) -> Video:
    frames = np.random.default_rng(seed).integers(0, 256, (_FRAMES, _SIDE, _SIDE, 3), dtype=np.uint8)
    return Video.from_frames(frames, 2.0)


def _inputs(processor: Any, rows: list[tuple[Video, str]]) -> Any:
    return processor(
        text=[prompt_text(processor, question) for _, question in rows],
        videos=[[video.frames] for video, _ in rows],
        video_metadata=[video.metadata for video, _ in rows],
        fps=rows[0][0].fps,
        do_sample_frames=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def _logits(model: Any, inputs: Any) -> Tensor:
    out = model.generate(
        **inputs,
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits: Tensor = torch.stack(out.logits, dim=1)
    return logits


def _run(subject: Subject, of: Bundled, inputs: Any, budget: Any, **options: Any) -> Compression | None:
    def generate() -> Compression:
        with compress(of.model, subject.method, budget, **options) as run:
            logits = _logits(of.model, inputs)
        if not bool(logits.isfinite().all()):
            raise Broken(f"the model answers NaN after {subject.name} compressed its cache to {budget}.")
        return run

    told = ", ".join([str(budget), *(f"{name}={value!r}" for name, value in options.items())])
    found: Compression | None = subject.attempt(told, generate)
    return found


def _check_budget(subject: Subject, report: Report, budget: Any) -> None:
    seen = report.visual_tokens + report.label_tokens
    keep = min(Budget.parse(budget).entries(seen), seen)
    _check_held(subject, list(report.entries), list(report.label_entries), keep, str(budget))


def _check_held(subject: Subject, entries: list[int], labels: list[int], keep: int, budget: str) -> None:
    held = [visual + label for visual, label in zip(entries, labels, strict=True)]
    if sum(held) != keep * len(held):
        raise Broken(
            f"{subject.name} holds {sum(held)} entries per head over {len(held)} layers where a budget of {budget} "
            f"allows {keep * len(held)}: {', '.join(map(str, held))}."
        )
    if even(subject.method) and set(held) != {keep}:
        raise Broken(
            f"{subject.name} holds {', '.join(map(str, held))} entries in its layers, expected {keep} in each."
        )


def _stage(method: Compressor) -> Any:
    return "cache" if "cache" in method.stages else "input"


def _stock_answers(of: Bundled, subject: Subject) -> None:
    def generate() -> Tensor:
        with compress(of.model, subject.method, "100%", stage=_stage(subject.method)):
            return _logits(of.model, of.prompts[0])

    kept = subject.attempt("100%", generate)
    apart = 0.0 if kept is None else float((kept - _logits(of.model, of.prompts[0])).abs().max())
    if not apart <= _TOLERANCE:
        raise Broken(f"with {subject.name} at 100% the logits differ from the stock model's by {apart:.2g}.")


def _exact(subject: Subject, of: Bundled, inputs: Any, budget: Any, **options: Any) -> Compression | None:
    run = _run(subject, of, inputs, budget, **options)
    if run is not None:
        _check_budget(subject, run.report, budget)
    return run


def _keeps_positions(of: Bundled, subject: Subject) -> None:
    _exact(subject, of, of.prompts[0], "50%")


def _compact_positions(of: Bundled, subject: Subject) -> None:
    _exact(subject, of, of.prompts[0], "25%", positions="compact")


def _chunks(of: Bundled, subject: Subject) -> None:
    _exact(subject, of, of.prompts[0], _TOKENS, chunk=_CHUNK)


def _before_prefill(of: Bundled, subject: Subject) -> None:
    _exact(subject, of, of.prompts[0], "50%", stage="input", labels="keep")


def _padded_batch(of: Bundled, subject: Subject) -> None:
    together = _exact(subject, of, of.batch, "50%")
    if together is None:
        return
    for row, inputs in enumerate(of.prompts):
        alone = _run(subject, of, inputs, "50%")
        if alone is None:
            return
        padding = of.batch["input_ids"].shape[1] - inputs["input_ids"].shape[1]
        for layer, (mine, both) in enumerate(zip(alone.kept, together.kept, strict=True)):
            share = _shared(mine[0], both[row], padding)
            if share < _ALIKE:
                raise Broken(
                    f"{subject.name} keeps other entries of a row in a padded batch than of the row alone "
                    f"({1 - share:.0%} of them in layer {layer}): compare no rows, and count no tokens from the front."
                )


def _shared(alone: Tensor, padded: Tensor, padding: int) -> float:
    """Return the fraction of the entries kept in a row alone, (heads, n) indices, that a padded batch keeps too."""
    pairs = zip((alone + padding).tolist(), padded.tolist(), strict=True)
    both = [len({each for each in one if each >= padding} & set(other)) for one, other in pairs]
    return sum(both) / max(1, int((alone >= 0).sum()))


def _stream(positions: Any, of: Bundled, subject: Subject) -> None:
    def watch() -> VideoSession:
        session = VideoSession(of.model, of.processor, subject.method, _TOKENS, positions=positions, chunk=_CHUNK)
        for seed in range(3):
            session.push(_video(seed).frames[: _FRAMES // 2])
        session.ask(_QUESTIONS[0], max_new_tokens=2)
        return session

    session = subject.attempt(f"{_TOKENS} in a stream", watch)
    if session is not None:
        stats = session.stats
        _check_held(subject, list(stats.entries), list(stats.label_entries), _TOKENS, f"{_TOKENS} entries")
