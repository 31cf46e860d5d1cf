"""Patches of a video that methods keep, measured on the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET
from ..cache.adoption import layers_of
from ..cache.kept_patches import kept_shares
from ..compression import compress
from ..errors import MissingInputError, VideoError
from ..models import adapter_for
from ..models.cache_argument import CACHE
from ..utils.questions import check_question
from ..video.prompt import prepare
from ..video.reader import Frames, Seconds, Video

_DEFAULT_QUESTION = "Describe the video."
_LONGER_SIDE = 224  # pixels of a shown frame
_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Retained:
    """The patches that one method kept of a video.

    Attributes:
        method: as requested.
        budget: as requested.
        ratio: visual entries held over visual tokens.
        shares: fraction of layers and heads that kept each patch of each time step, (steps, rows, columns) fp64.
        answer: the answer, if a question was asked.
    """

    method: str
    budget: str
    ratio: float
    shares: NDArray[np.float64]
    answer: str | None = None

    @property
    def entries(self) -> NDArray[np.float64]:
        """Entries kept of each time step, mean over layers and heads, (steps,)."""
        return self.shares.sum(axis=(1, 2))


@dataclass(frozen=True)
class Overlay:
    """The patches that several methods kept of one video, with the frames for drawing them.

    Attributes:
        title: title of the video.
        pictures: the frames shown, (shown, height, width, 3) uint8, cropped to what the model sees.
        shown: indices of their time steps, (shown,).
        times: time of each step, of one or more frames, in seconds, (steps,).
        frames: number of frames of the video.
        retained: one per method.
        question: the question, if one was asked.
    """

    title: str
    pictures: Frames
    shown: NDArray[np.int64]
    times: Seconds
    frames: int
    retained: tuple[Retained, ...]
    question: str | None = None


def look(
    model: Any,
    processor: Any,
    video: Video,
    methods: Sequence[str],
    budget: str,
    question: str | None = None,
    *,
    shown: int = 8,
    title: str = "",
    done: Callable[[], None] = lambda: None,
) -> Overlay:
    """Compress a video with each method and record the kept patches.

    Args:
        model, processor: result of `load` or `load_bundled`.
        video: result of `read_video`.
        methods: names, or `"name:setting=value,…"`; `full` keeps everything at any budget.
        budget: as in `compress`.
        question: question to ask after each compression, to compare the answers.
        shown: number of frames to show, evenly spaced; at most one per time step of the model.
        title: title of the video; its file name by default.
        done: called after each method.

    Raises:
        VideoError: fewer than one frame is to be shown.
        MissingInputError: no method is named.
        QuestionError: the question is not text, or contains a special token of the model.
        BudgetError: the budget cannot be read or reached.
        UnknownNameError: unknown method or setting.
        UnsupportedModelError: the model cannot be compressed.
    """
    if shown < 1:
        raise VideoError(f"At least one frame must be shown, got {shown}.")
    if not methods:
        raise MissingInputError("Name at least one method to show.")
    asked = question or _DEFAULT_QUESTION
    check_question(processor, asked)
    retained = []
    inputs = prepare(processor, video, asked).to(model.device)
    for method in methods:
        retained.append(_retained(model, processor, inputs, method, budget, answers=question is not None))
        done()
    steps = len(retained[0].shares)
    first = np.minimum(np.arange(steps) * adapter_for(model).frames_per_step, len(video) - 1)
    chosen = np.unique(np.linspace(0, steps - 1, min(shown, steps)).round().astype(np.int64))
    name = title or (video.path.name if video.path else "video")
    return Overlay(
        title=name.encode(errors="backslashreplace").decode(),
        pictures=_pictures(processor, video, first[chosen]),
        shown=chosen,
        times=video.times[first],
        frames=len(video),
        retained=tuple(retained),
        question=question,
    )


def _retained(model: Any, processor: Any, inputs: Any, method: str, budget: str, answers: bool) -> Retained:
    held = UNCOMPRESSED_BUDGET if method == UNCOMPRESSED else budget
    with compress(model, method, held) as run:
        output = model.generate(
            **inputs, max_new_tokens=_ANSWER_TOKENS if answers else 1, do_sample=False, return_dict_in_generate=True
        )
    reply = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    answer = processor.tokenizer.decode(reply, skip_special_tokens=True).strip() if answers else None
    return Retained(method, held, run.report.ratio, kept_shares(layers_of(output[CACHE])), answer)


def _pictures(processor: Any, video: Video, chosen: NDArray[np.int64]) -> Frames:
    """Scale frames down for display, and crop them to the centre where the model's processor does."""
    frames = video.frames[chosen]
    vision = getattr(processor, "video_processor", None) or processor.image_processor
    if getattr(vision, "do_center_crop", False):
        height, width = frames.shape[1:3]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[:, top : top + side, left : left + side]
    height, width = frames.shape[1:3]
    scale = min(1.0, _LONGER_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
