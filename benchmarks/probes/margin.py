"""Calibrate the margin of automatic focus for one model, and evaluate the switch on other clips.

A question is answered from the entries of the base (*never*), with retrieved frames (*always*), and with retrieved
frames if the margin of its first token is below the calibrated one (*in doubt*). The switch is useful if its accuracy
lies above the line that mixes the other two at random for the same processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from kvpress_video.methods.focus import MARGIN as MARGIN  # name under which it is stored
from numpy.typing import NDArray

import kvpress_video as kv
from kvpress_video.sweep.benchmark import same_words

from ..world import Clip

_DRAWS = 2000
NAMES = ("never", "in doubt", "always")


@dataclass(frozen=True)
class Asked:
    """Questions about clips, in order.

    Attributes:
        clip: index of the clip of each question.
        margin: margin of the first token, from the entries of the base.
        right: whether each answer is correct, (questions, 3) for `NAMES`; NaN in the second column if not asked.
        seconds: processor time of each answer, likewise.
        doubted: whether frames were retrieved for the second.
    """

    clip: NDArray[np.int64]
    margin: NDArray[np.float64]
    right: NDArray[np.float64]
    seconds: NDArray[np.float64]
    doubted: NDArray[np.bool_]


def ask_clips(model: Any, processor: Any, base: str, budget: int, clips: Iterable[Clip], margin: float | None) -> Asked:
    """Ask every question in three sessions; without a margin in two, from which the switch follows.

    Args:
        model, processor: from `kv.load`.
        base: method that keeps entries.
        budget: visual entries per layer and KV head.
        clips: clips of the world.
        margin: margin from which on no frames are retrieved.
    """
    never = f"focus:margin=-1e9,base={base}" if margin is None else base
    methods = [never, f"focus:margin={margin},base={base}", f"focus:margin=1e9,base={base}"]
    number, margins, right, seconds = [], [], [], []
    for place, clip in enumerate(clips):
        frames = kv.read_video(clip.path).frames
        sessions = [kv.VideoSession(model, processor, each, budget) if margin is not None or at != 1 else None
                    for at, each in enumerate(methods)]  # fmt: skip
        for session in filter(None, sessions):
            session.push(frames)
            session.flush()
        for question in clip.questions:
            answers = [_timed(session, question.text) for session in sessions]
            number.append(place)
            margins.append(_margin(sessions))
            right.append([np.nan if said is None else same_words(said, question.answer) for said, _ in answers])
            seconds.append([taken for _, taken in answers])
    margin_of = np.array(margins)
    doubted = margin_of < (np.inf if margin is None else margin)
    return Asked(np.array(number), margin_of, np.array(right, float), np.array(seconds), doubted)


def _timed(session: kv.VideoSession | None, question: str) -> tuple[str | None, float]:
    if session is None:
        return None, 0.0
    started = time.process_time()
    answer = session.ask(question, keep=False, max_new_tokens=8)
    return answer, time.process_time() - started


def _margin(sessions: Sequence[kv.VideoSession | None]) -> float:
    return next(
        float(each.stream.archive.margin) for each in sessions if each and each.stream.archive.margin is not None
    )


def least_margin(asked: Asked) -> float:
    """Return the margin whose switch lies farthest above the line on these questions, by the share of retrievals."""
    never, always = asked.right[:, 0], asked.right[:, 2]

    def height(least: float) -> float:
        doubt = asked.margin < least
        line = never.mean() + doubt.mean() * (always.mean() - never.mean())
        return float(np.where(doubt, always, never).mean() - line)

    margins: list[float] = np.unique(np.quantile(asked.margin, np.linspace(0.05, 0.95, 19))).tolist()
    best = max(margins, key=height)
    return round(best, 2)


def height(asked: Asked) -> float:
    """Return how far the accuracy of the switch lies above the line, at its processor time."""
    right, seconds = asked.right.mean(axis=0), asked.seconds.mean(axis=0)
    along = (seconds[1] - seconds[0]) / (seconds[2] - seconds[0])
    return float(right[1] - right[0] - along * (right[2] - right[0]))


def interval(asked: Asked, measure: Callable[[Asked], float]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of a measure over clips."""
    random, clips = np.random.default_rng(0), np.unique(asked.clip)
    of_clip = [np.flatnonzero(asked.clip == clip) for clip in clips]
    found = []
    for _ in range(_DRAWS):
        drawn = np.concatenate([of_clip[each] for each in random.integers(len(clips), size=len(clips))])
        parts = (asked.clip, asked.margin, asked.right, asked.seconds, asked.doubted)
        found.append(measure(Asked(*(part[drawn] for part in parts))))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def rows(asked: Asked) -> list[tuple[str, ...]]:
    """Return a row of a table for each of `NAMES`."""
    back = [0.0, float(asked.doubted.mean()), 1.0]
    found: list[tuple[str, ...]] = []
    for at, name in enumerate(NAMES):
        low, high = interval(asked, lambda drawn, at=at: float(drawn.right[:, at].mean()))  # type: ignore[misc]
        accuracy = f"{asked.right[:, at].mean():.3f} [{low:.3f}, {high:.3f}]"
        found.append((name, accuracy, f"{1000 * asked.seconds[:, at].mean():.1f}", f"{back[at]:.0%}"))
    return found


def summary(asked: Asked) -> str:
    """State how far the switch lies above the line."""
    low, high = interval(asked, height)
    return f"in doubt lies {height(asked):+.3f} [{low:+.3f}, {high:+.3f}] above the line between never and always"
