"""Confidence intervals and paired tests over clustered questions: those about one video are not independent."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from .clustered import Floats, PairedScores, clustered_mean

CONFIDENCE = 0.95
"""Confidence level of every interval."""
_EXACT = 16
"""Up to this many differing clusters the randomisation test enumerates all their signs."""
_MOST = 10_000_000
"""Maximum number of clusters that `needed` considers."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% confidence interval.

    Attributes:
        mean: an accuracy, a difference of two accuracies, or their ratio.
        low: lower bound of the interval.
        high: upper bound of the interval.
        questions: number of questions in the estimate.
        clusters: number of clusters in the estimate.
    """

    mean: float
    low: float
    high: float
    questions: int
    clusters: int


@dataclass(frozen=True)
class Difference(Interval):
    """The difference of two accuracies on the same questions, tested against zero.

    Attributes:
        p: probability of a difference at least this large if both were equally good.
        error: standard error of the mean.
    """

    p: float
    error: float = math.nan


def accuracy(
    scores: Sequence[float],
    clusters: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Interval:
    """Estimate an accuracy, with a Wilson interval on the effective number of questions.

    The effective number is the size of an independent sample with the same variance, the variance being that of a ratio
    of sums over clusters. It never exceeds the number of questions. If all answers agree, so that the variance
    cannot be estimated, it is the number of clusters.

    Args:
        scores: score of each answer, in [0, 1], or booleans.
        clusters: the cluster of each question.
        weights: weight of each question, positive; equal by default.
        strata: stratum of each question, if the accuracy is a mean of the strata's means; then differences between
            strata do not widen the interval.

    Raises:
        ValueError: there are no questions, or not as many clusters, weights or strata as answers.
    """
    values = np.asarray(scores, dtype=np.float64)
    found = clustered_mean(values, clusters, weights, strata)
    mean, count = found.mean, found.clusters
    if count < 2:
        return Interval(mean, 0.0, 1.0, len(values), count)
    variance = max(found.error, found.independent) ** 2
    effective = mean * (1 - mean) / variance if found.error and 0 < mean < 1 else float(count)
    z = _quantile(count)
    centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2))
    return Interval(mean, max(0.0, float(centre - half)), min(1.0, float(centre + half)), len(values), count)


def compare(scores: PairedScores) -> Difference:
    """Estimate left minus right, with the interval and two-sided p of Student's t over clusters.

    If no clusters differ, so that the variance cannot be estimated, the interval is as wide as if one more question
    were decided each way, and p is that of a sign test over clusters.

    Raises:
        ValueError: no question was answered by both.
    """
    found = scores.mean(scores.left - scores.right)
    mean, count, questions = found.mean, found.clusters, len(scores)
    if count < 2:
        return Difference(mean, -1.0, 1.0, questions, count, 1.0, math.inf)
    error = found.error or 2**0.5 / questions
    half = _quantile(count) * error
    agreed = 2.0 ** (1 - count) if mean else 1.0
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if found.error else agreed
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), questions, count, p, error)


def retention(scores: PairedScores) -> Interval | None:
    """Estimate the accuracy of left as a fraction of right's; None if right has no correct answer.

    The interval is Student's t over clusters of the linearised ratio, in which both accuracies vary together (Cochran,
    Sampling Techniques, 1977, chapter 6).

    Raises:
        ValueError: no question was answered by both.
    """
    reference = scores.mean(scores.right).mean
    if reference <= 0:
        return None
    mean = scores.mean(scores.left).mean / reference
    found, questions = scores.mean((scores.left - mean * scores.right) / reference), len(scores)
    if found.clusters < 2:
        return Interval(mean, 0.0, math.inf, questions, found.clusters)
    half = _quantile(found.clusters) * (found.error or 2**0.5 / questions / reference)
    return Interval(mean, max(0.0, mean - half), mean + half, questions, found.clusters)


def fall(scores: PairedScores, keep: float = 1.0) -> float:
    """Return the one-sided p of the observed scores if left were at least `keep` times as good as right.

    The test is Student's t over clusters. It overstates the significance of few differing clusters, so if at most 16
    differ, p is at least that of Fisher's randomisation test: the fraction of all ways to assign each differing
    cluster's two results to left and right in which left is as bad. That test is exact if both are equally good.

    Raises:
        ValueError: no question was answered by both.
    """
    found = scores.mean(scores.left - keep * scores.right)
    gains = scores.cluster_sums(scores.left - scores.right)
    gains = gains[np.abs(gains) > 1e-12]
    if found.clusters < 2 or not len(gains):
        return 1.0
    exact = _randomisation_p(gains) if len(gains) <= _EXACT else 0.0
    if not found.error:
        return max(exact, 0.5**found.clusters) if found.mean < 0 else 1.0
    return max(exact, float(stats.t.cdf(found.mean / found.error, found.clusters - 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct the p-values of a family of tests, in order: the probability of any false positive below α is at most α.

    The method is Holm's (1979).
    """
    corrected, worst = [0.0] * len(ps), 0.0
    for rank, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[number]))
        corrected[number] = worst
    return corrected


def detectable(found: Difference, alpha: float = 0.05, power: float = 0.8, sides: int = 2) -> float:
    """Return the smallest true difference detected with this power by as many clusters; 1 if there is none.

    The variance is the observed one plus that of the difference itself, which matters if no answer differed yet.

    Args:
        found: the observed difference.
        alpha: level of the test.
        power: probability of finding the difference.
        sides: 1 if only drops count.
    """
    if found.clusters < 2 or not math.isfinite(found.error):
        return 1.0
    t = stats.t(found.clusters - 1)
    z = float(t.ppf(1 - alpha / sides) + t.ppf(power)) ** 2
    a, b, c = 1 + z / found.questions, z / found.questions, z * found.error**2
    return min(1.0, (b + math.sqrt(b**2 + 4 * a * c)) / (2 * a))


def needed(found: Difference, difference: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Return the smallest number of clusters that show a true difference of this size with this power.

    It inverts `detectable` for clusters like the observed ones: as many questions in each, and the same variance.

    Args:
        found: the observed difference, of any size.
        difference: the true difference to find, above 0.
        alpha, power: as in `detectable`.

    Returns:
        The number of clusters; None if the variance cannot be estimated, or more than ten million are needed.
    """
    if found.clusters < 2 or not math.isfinite(found.error):
        return None

    def shows(clusters: int) -> bool:
        more = clusters / found.clusters
        scaled = replace(
            found, clusters=clusters, questions=max(1, round(found.questions * more)), error=found.error / more**0.5
        )
        return detectable(scaled, alpha, power) <= difference

    if not shows(_MOST):
        return None
    return bisect_left(range(_MOST), True, lo=2, key=shows)


def _quantile(clusters: int) -> float:
    """Return the half-width of the interval in standard errors."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1))


def _randomisation_p(gains: Floats) -> float:
    """Return the fraction of all sign assignments whose sum is no more than that of the gains."""
    signs = 1 - 2 * (np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains)) & 1)
    return float((signs @ np.abs(gains) <= gains.sum() + 1e-9).mean())
