"""Answer the questions of an evaluation harness, with one method at one budget, as sweeps do."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import track

from ..budget import Budget
from ..compression import Compression, Report, check_achieved, compress
from ..models.devices import device_of
from ..models.loading import load_named
from ..utils.model_names import MODEL_SETTINGS
from ..video.prompt import encode, prompt_text
from ..video.reader import Video
from ..video.resolution import frame_pixels
from .footage import Footage
from .generation import Generation, Stop
from .options import Options

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One question about one video.

    Attributes:
        footage: the video.
        prompt: prompt in the model's chat template, with one placeholder for the video.
        generation: limits of the answer.
    """

    footage: Footage
    prompt: str
    generation: Generation


class Answerer:
    """A loaded model that answers requests by greedy decoding, each after its video is compressed.

    Attributes:
        options: options of the model and the compression.
        model, processor: the loaded model and its processor.
        reports: one report per batch, in the order of answering; bytes are per question.
        short_videos: number of files read so far with fewer frames than requested.
    """

    def __init__(self, options: Options) -> None:
        """Load the model.

        Raises:
            UnknownNameError: there is no such model, stage, prefill, positions or labels.
            UnsupportedModelError: the model cannot be compressed.
        """
        self.options = options
        self.model, self.processor = _load(options)
        self._budget = Budget.parse(options.budget)
        self._max_pixels = frame_pixels(self.processor)
        self.reports: list[Report] = []
        self.short_videos = 0
        self._compression(self._budget)

    def prompt(self, question: str) -> str:
        """Write a question in the model's chat template."""
        return prompt_text(self.processor, question)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yield the index of each request with its answer.

        Requests about one video are answered together, so that it is read once and each batch shares its prefill.

        Raises:
            VideoError: a video cannot be read.
            BudgetError: the method cannot reach the budget.
        """
        videos: dict[Hashable, list[int]] = {}
        for place, request in enumerate(requests):
            videos.setdefault(request.footage.key, []).append(place)
        before = self.short_videos
        for places in track(list(videos.values()), "Answering", console=Console(stderr=True), transient=True):
            video = self._read(requests[places[0]].footage)
            for batch in self._batches(requests, places):
                yield from zip(batch, self._answer(video, [requests[place] for place in batch]), strict=True)
        if self.short_videos > before:
            logger.warning("%d of the %d videos were that short.", self.short_videos - before, len(videos))

    def achieved(self) -> dict[str, Any]:
        """Describe the requested compression and, after the first answers, the achieved one over all batches."""
        found = {"pretrained": self.options.pretrained, "method": self.options.method}
        if not self.reports:
            return found
        first = self.reports[0]
        return {
            **found,
            "settings": first.settings,
            "budget": str(self._budget),
            "stage": first.stage,
            "prefill": first.prefill,
            "positions": first.positions,
            "labels": first.labels,
            "quantize": first.quantize,
            "ratio": fmean(report.ratio for report in self.reports),
            "entries": max(max(report.entries) for report in self.reports),
            "bytes": max(report.bytes for report in self.reports),
            "full_bytes": max(report.full_bytes for report in self.reports),
            "short_videos": self.short_videos,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": str(self.model.config._attn_implementation),
        }

    def _read(self, footage: Footage) -> Video:
        """Read a video; count those with fewer frames than requested, and warn about the first."""
        frames, fps = self.options.frames, self.options.fps
        video = footage.read(frames, fps, self._max_pixels)
        short = len(video) < frames if frames is not None else fps is not None and video.fps < fps
        if short and video.path is not None:
            if not self.short_videos:
                asked = f"frames={frames}" if frames is not None else f"fps={fps:g}"
                logger.warning(
                    "%s has fewer frames than %s: all %d are used, as for every such video.",
                    video.path,
                    asked,
                    len(video),
                )
            self.short_videos += 1
        return video

    def _batches(self, requests: Sequence[Request], places: Sequence[int]) -> Iterator[list[int]]:
        """Split the requests about one video into batches with equal generation settings."""
        alike: dict[Generation, list[int]] = {}
        for place in places:
            alike.setdefault(requests[place].generation, []).append(place)
        size = self.options.batch_size
        for same in alike.values():
            yield from (same[first : first + size] for first in range(0, len(same), size))

    def _answer(self, video: Video, requests: Sequence[Request]) -> list[str]:
        tokenizer, generation, rows = self.processor.tokenizer, requests[0].generation, len(requests)
        asked = self._budget.for_rows(rows)
        inputs = encode(self.processor, video, [request.prompt for request in requests]).to(device_of(self.model))
        length = inputs["input_ids"].shape[1]
        with self._compression(asked) as run:
            output = self.model.generate(
                **inputs,
                max_new_tokens=generation.max_new_tokens,
                do_sample=False,
                stopping_criteria=[Stop(tokenizer, length, generation.until)] if generation.until else None,
            )
        check_achieved(asked, run.report)
        held = {name: getattr(run.report, name) // rows for name in ("bytes", "peak_bytes", "full_bytes")}
        self.reports.append(replace(run.report, **held))
        replies = tokenizer.batch_decode(output[:, length:].tolist(), skip_special_tokens=True)
        return [generation.cut(reply).strip() for reply in replies]

    def _compression(self, budget: Budget) -> Compression:
        options = self.options
        return compress(
            self.model,
            options.method,
            budget,
            stage=options.stage,
            prefill=options.prefill,
            chunk=options.chunk,
            positions=options.positions,
            labels=options.labels,
            quantize=options.quantize,
            **options.settings,
        )


def _load(options: Options) -> tuple[Any, Any]:
    how = {name: getattr(options, name) for name in MODEL_SETTINGS}
    return load_named(options.pretrained, **how)
