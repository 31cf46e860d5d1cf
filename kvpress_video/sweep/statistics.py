"""Intervals and comparisons over questions that come in clusters: the questions of one clip are not independent."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Question = TypeVar("Question", bound=Hashable)


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its interval.

    Attributes:
        mean: right answers per question.
        low, high: bounds of the interval.
        questions, clusters: how many there were.
    """

    mean: float
    low: float
    high: float
    questions: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """How much more often one method is right than another on the same questions.

    Attributes:
        mean: difference of the two accuracies.
        low, high: bounds of its interval.
        p: probability of a difference at least this large if the two were equally good.
        questions, clusters: how many they were compared on.
    """

    mean: float
    low: float
    high: float
    p: float
    questions: int
    clusters: int


def accuracy(correct: Sequence[bool], clusters: Sequence[Hashable], confidence: float = 0.95) -> Accuracy:
    """The accuracy of answers to clustered questions, with a Wilson interval on the effective number of questions.

    The effective number is what an independent sample would need for the same variance, the variance being that of a
    ratio of sums over clusters; it never exceeds the number of questions, and is the number of clusters where all
    answers agree, which tells nothing about the variance.

    Args:
        correct: whether each answer was right.
        clusters: the cluster of each question.
        confidence: of the interval.

    Raises:
        ValueError: there are no questions, or not as many clusters as answers.
    """
    mean, error, count = _clustered(np.asarray(correct, dtype=np.float64), clusters)
    questions = len(correct)
    if count < 2:
        return Accuracy(mean, 0.0, 1.0, questions, count)
    effective = min(float(questions), mean * (1 - mean) / error**2) if error and 0 < mean < 1 else float(count)
    z = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2))
    return Accuracy(mean, max(0.0, float(centre - half)), min(1.0, float(centre + half)), questions, count)


def compare(
    left: Mapping[Question, bool],
    right: Mapping[Question, bool],
    clusters: Mapping[Question, Hashable],
    confidence: float = 0.95,
) -> Difference:
    """Paired comparison on the questions that both answered: interval and p from Student's t over clusters.

    Where the clusters do not differ at all, which tells nothing about the variance, the interval is as wide as one more
    question decided each way would make it, and p is that of every cluster's sign.

    Args:
        left, right: whether the answer to each question was right.
        clusters: the cluster of each question.
        confidence: of the interval.

    Raises:
        ValueError: no question was answered by both.
    """
    shared = [question for question in left if question in right]
    gains = np.array([float(left[question]) - float(right[question]) for question in shared])
    mean, error, count = _clustered(gains, [clusters[question] for question in shared])
    if count < 2:
        return Difference(mean, -1.0, 1.0, 1.0, len(shared), count)
    t = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    if error:
        half, p = t * error, float(2 * stats.t.sf(abs(mean) / error, count - 1))
    else:
        half, p = t * 2**0.5 / len(shared), 2.0 ** (1 - count) if mean else 1.0
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), p, len(shared), count)


def _clustered(values: Floats, clusters: Sequence[Hashable]) -> tuple[float, float, int]:
    """Mean over all values, its standard error as a ratio of sums over clusters, and the number of clusters."""
    if not len(values):
        raise ValueError("no questions to average over")
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} answers in {len(clusters)} clusters: give the cluster of each answer")
    ordinals: dict[Hashable, int] = {}
    owner = np.array([ordinals.setdefault(cluster, len(ordinals)) for cluster in clusters])
    sizes, sums = np.bincount(owner).astype(float), np.bincount(owner, weights=values)
    count, mean = len(sizes), float(values.mean())
    if count < 2:
        return mean, 0.0, count
    spread = float(((sums - mean * sizes) ** 2).sum())
    return mean, float(np.sqrt(count / (count - 1) * spread)) / len(values), count
