"""Where a question reads the video: swap the visual entries of a layer for those of a minimally different clip.

After Vision Function Layers (arXiv 2509.24791). The model reads a clip; then the keys and values of all visual tokens
are replaced by those of the other clip, which only the question and its answer see. Two variants: in one layer alone,
and in it and all layers after it. The score is the share of pairs whose answer becomes that of the other clip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.stats import binomtest

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor import Context, Entries, is_visual
from kvpress_video.sweep.benchmark import same_words

from .pairs import Pair, pairs

_TOKENS = 8


@dataclass(frozen=True)
class Profile:
    """Outcome for one family of questions.

    Attributes:
        count: pairs of which the model tells both clips apart.
        alone: of these, how many answers became the other clip's, by the one swapped layer.
        onwards: the same, with all later layers swapped too.
    """

    count: int
    alone: Sequence[int]
    onwards: Sequence[int]

    def interval(self, flips: int) -> tuple[float, float, float]:
        """Return a share of the pairs, and the ends of its 95% Wilson interval."""
        found = binomtest(flips, self.count).proportion_ci(method="wilson")
        return flips / self.count, float(found.low), float(found.high)


def profiles(model: Any, processor: Any, seeds: Sequence[int], frames: int) -> dict[str, Profile]:
    """Measure the profile of each family of questions over the scenes of some seeds."""
    flips: dict[str, list[list[bool]]] = defaultdict(list)
    for seed in seeds:
        for pair in pairs(seed, frames):
            if (outcome := swapped(model, processor, pair)) is not None:
                flips[pair.family].append(outcome)
    found = {}
    for family, rows in flips.items():
        columns = [sum(column) for column in zip(*rows, strict=True)]
        layers = len(columns) // 2
        found[family] = Profile(len(rows), columns[:layers], columns[layers:])
    return found


def swapped(model: Any, processor: Any, pair: Pair) -> list[bool] | None:
    """Say whether swapping turns the answer into the other clip's: each layer alone, then each with all after it.

    Returns None if the model does not give both clips their right answers by itself.
    """
    sessions = [kv.VideoSession(model, processor, "full") for _ in pair.videos]
    for session, video, answer in zip(sessions, pair.videos, pair.answers, strict=True):
        session.push(video.frames, video.times)
        if not same_words(_said(session, pair), answer):
            return None
    mine, theirs = (session.stream.layers for session in sessions)
    numbers = range(len(mine))
    flips = []
    for layers in (*([number] for number in numbers), *(numbers[first:] for first in numbers)):
        with ExitStack() as undo:
            for layer in layers:
                undo.enter_context(exchanged(mine[layer], theirs[layer]))
            flips.append(same_words(_said(sessions[0], pair), pair.answers[1]))
    return flips


def _said(session: kv.VideoSession, pair: Pair) -> str:
    return session.ask(pair.question, max_new_tokens=_TOKENS, keep=False)


@contextmanager
def exchanged(layer: CompressedLayer, other: CompressedLayer) -> Iterator[None]:
    """Give the visual tokens of a layer the keys and values of another, which holds the same tokens."""
    own, lent = _copied(layer.entries(Context())), other.entries(Context())
    visual = is_visual(own.kind)[..., None]
    keys, values = torch.where(visual, lent.keys, own.keys), torch.where(visual, lent.values, own.values)
    layer.replace(replace(_copied(own), keys=keys, values=values), layer.rows)
    try:
        yield
    finally:
        layer.replace(own, layer.rows)


def _copied(entries: Entries) -> Entries:
    return replace(entries, **{name: getattr(entries, name).clone() for name in ("keys", "values", "tags", "places")})


def shares(found: Mapping[str, Profile], least: float = 0.05) -> list[float]:
    """Return each layer's mean share of flips over families, swapped alone and at least `least`, times a constant with
    which they are 1 on average: the shares of `vfl` and `per-layer`.
    """
    layers = len(next(iter(found.values())).alone)
    means = [
        max(least, sum(each.alone[layer] / each.count for each in found.values()) / len(found))
        for layer in range(layers)
    ]
    return [mean * layers / sum(means) for mean in means]
