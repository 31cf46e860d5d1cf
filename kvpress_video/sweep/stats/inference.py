"""Intervals and comparisons over questions that come in clusters: the questions of one video are not independent."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .clustered import Floats, Paired, Question, estimate

_EXACT = 16
"""Up to this many differing clusters, all their signs are gone through."""


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its interval.

    Attributes:
        mean: right answers per question, or the weighted mean of their scores.
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
        error: standard error of the mean.
    """

    mean: float
    low: float
    high: float
    p: float
    questions: int
    clusters: int
    error: float = math.nan


@dataclass(frozen=True)
class Retention:
    """The accuracy of one method as a share of another's on the same questions.

    Attributes:
        mean: the share; 1 where both are equally good.
        low, high: bounds of its interval.
        questions, clusters: how many they were compared on.
    """

    mean: float
    low: float
    high: float
    questions: int
    clusters: int


def accuracy(
    scores: Sequence[float],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    weights: Sequence[float] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Accuracy:
    """The accuracy of answers to clustered questions, with a Wilson interval on the effective number of questions.

    The effective number is what an independent sample would need for the same variance, the variance being that of a
    ratio of sums over clusters; it never exceeds the number of questions, and is the number of clusters where all
    answers agree, which tells nothing about the variance.

    Args:
        scores: of each answer, in [0, 1]; right or wrong will do.
        clusters: the cluster of each question.
        confidence: of the interval.
        weights: of each question, positive; equal by default.
        strata: of each question, where the mean is one of strata's means: how these differ then widens nothing.

    Raises:
        ValueError: there are no questions, or not as many clusters, weights or strata as answers.
    """
    values = np.asarray(scores, dtype=np.float64)
    found = estimate(values, clusters, weights, strata)
    mean, count = found.mean, found.clusters
    if count < 2:
        return Accuracy(mean, 0.0, 1.0, len(values), count)
    variance = max(found.error, found.independent) ** 2
    effective = mean * (1 - mean) / variance if found.error and 0 < mean < 1 else float(count)
    z = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2))
    return Accuracy(mean, max(0.0, float(centre - half)), min(1.0, float(centre + half)), len(values), count)


def compare(
    left: Mapping[Question, float],
    right: Mapping[Question, float],
    clusters: Mapping[Question, Hashable],
    confidence: float = 0.95,
    weights: Mapping[Question, float] | None = None,
    strata: Mapping[Question, Hashable] | None = None,
) -> Difference:
    """Paired comparison on the questions that both answered: interval and p from Student's t over clusters.

    Where the clusters do not differ at all, which tells nothing about the variance, the interval is as wide as one more
    question decided each way would make it, and p is that of every cluster's sign.

    Args:
        left, right: score of the answer to each question, in [0, 1].
        clusters: the cluster of each question.
        confidence: of the interval.
        weights, strata: of each question, as in `accuracy`.

    Raises:
        ValueError: no question was answered by both.
    """
    paired = Paired.of(left, right, clusters, weights, strata)
    found = paired.estimate(paired.left - paired.right)
    mean, count, questions = found.mean, found.clusters, len(paired.left)
    if count < 2:
        return Difference(mean, -1.0, 1.0, 1.0, questions, count, math.inf)
    error = found.error or 2**0.5 / questions
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    agreed = 2.0 ** (1 - count) if mean else 1.0
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if found.error else agreed
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), p, questions, count, error)


def retention(
    left: Mapping[Question, float],
    right: Mapping[Question, float],
    clusters: Mapping[Question, Hashable],
    confidence: float = 0.95,
    weights: Mapping[Question, float] | None = None,
    strata: Mapping[Question, Hashable] | None = None,
) -> Retention | None:
    """The accuracy of `left` over that of `right` on the questions that both answered; None where `right` has none.

    The interval is Student's t over clusters of the linearised ratio, in which both accuracies vary together (Cochran,
    Sampling Techniques, 1977, chapter 6). Arguments and errors are those of `compare`.
    """
    paired = Paired.of(left, right, clusters, weights, strata)
    whole = paired.estimate(paired.right).mean
    if whole <= 0:
        return None
    mean = paired.estimate(paired.left).mean / whole
    found, questions = paired.estimate((paired.left - mean * paired.right) / whole), len(paired.left)
    if found.clusters < 2:
        return Retention(mean, 0.0, math.inf, questions, found.clusters)
    half = float(stats.t.ppf((1 + confidence) / 2, found.clusters - 1)) * (found.error or 2**0.5 / questions / whole)
    return Retention(mean, max(0.0, mean - half), mean + half, questions, found.clusters)


def fall(
    new: Mapping[Question, float],
    base: Mapping[Question, float],
    clusters: Mapping[Question, Hashable],
    keep: float = 1.0,
    weights: Mapping[Question, float] | None = None,
    strata: Mapping[Question, Hashable] | None = None,
) -> float:
    """One-sided p of what was found if `new` were at least `keep` times as good as `base`.

    Student's t over clusters. Where few clusters differ, which t takes for more than it is, p is also no less than the
    share of the ways to give each differing cluster's two results to `new` and `base` in which `new` comes out as badly
    (Fisher's randomisation test, exact if the two are equally good).

    Raises:
        ValueError: no question was answered by both.
    """
    paired = Paired.of(new, base, clusters, weights, strata)
    found = paired.estimate(paired.left - keep * paired.right)
    gains = paired.sums(paired.left - paired.right)
    gains = gains[np.abs(gains) > 1e-12]
    if found.clusters < 2 or not len(gains):
        return 1.0
    flipped = _flipped(gains) if len(gains) <= _EXACT else 0.0
    if not found.error:
        return max(flipped, 0.5**found.clusters) if found.mean < 0 else 1.0
    return max(flipped, float(stats.t.cdf(found.mean / found.error, found.clusters - 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of a family of tests, corrected: those below α hold any false alarm with probability α (Holm 1979)."""
    corrected, worst = [0.0] * len(ps), 0.0
    for rank, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[number]))
        corrected[number] = worst
    return corrected


def detectable(found: Difference, alpha: float = 0.05, power: float = 0.8, sides: int = 2) -> float:
    """The smallest true difference that as many clusters show with this power; 1 where none would do.

    Its variance is the one that was observed and, on top, what such a difference itself brings: where nothing differed
    yet, none was observed.

    Args:
        found: what was observed.
        alpha: of the test.
        power: probability of finding it.
        sides: 1 where only falls are looked for.
    """
    if found.clusters < 2 or not math.isfinite(found.error):
        return 1.0
    t = stats.t(found.clusters - 1)
    z = float(t.ppf(1 - alpha / sides) + t.ppf(power)) ** 2
    a, b, c = 1 + z / found.questions, z / found.questions, z * found.error**2
    return min(1.0, (b + math.sqrt(b**2 + 4 * a * c)) / (2 * a))


def _flipped(gains: Floats) -> float:
    """The share of all signs of the gains that sum to no more than the gains do."""
    signs = 1 - 2 * (np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains)) & 1)
    return float((signs @ np.abs(gains) <= gains.sum() + 1e-9).mean())
