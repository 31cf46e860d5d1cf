"""Weighted means over clustered questions, and their standard errors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Question = TypeVar("Question", bound=Hashable)


@dataclass(frozen=True)
class ClusteredMean:
    """A weighted mean and its standard error.

    Attributes:
        mean: the weighted mean.
        error: its standard error, with questions of one cluster dependent.
        independent: its standard error if all questions were independent.
        clusters: number of clusters.
    """

    mean: float
    error: float
    independent: float
    clusters: int


@dataclass(frozen=True)
class PairedScores:
    """Scores of two methods on the questions that both answered, all in one order.

    Attributes:
        left: scores of the first, (questions,) fp64.
        right: scores of the second, (questions,) fp64.
        clusters: the cluster of each question.
        weights: the weight of each question; None for equal weights.
        strata: the stratum of each question; None for a single one.
    """

    left: Floats
    right: Floats
    clusters: Sequence[Hashable]
    weights: Sequence[float] | None = None
    strata: Sequence[Hashable] | None = None

    @classmethod
    def of(
        cls,
        left: Mapping[Question, float],
        right: Mapping[Question, float],
        clusters: Mapping[Question, Hashable],
        weights: Mapping[Question, float] | None = None,
        strata: Mapping[Question, Hashable] | None = None,
    ) -> PairedScores:
        """Pair the scores of the questions that both answered.

        Args:
            left, right: score of the answer to each question, in [0, 1].
            clusters: the cluster of each question.
            weights, strata: weight and stratum of each question, as in `accuracy`.
        """
        shared = [question for question in left if question in right]
        return cls(
            np.array([left[question] for question in shared], dtype=np.float64),
            np.array([right[question] for question in shared], dtype=np.float64),
            [clusters[question] for question in shared],
            None if weights is None else [weights[question] for question in shared],
            None if strata is None else [strata[question] for question in shared],
        )

    def __len__(self) -> int:
        return len(self.left)

    def swapped(self) -> PairedScores:
        """Return the same pairs with left and right exchanged."""
        return replace(self, left=self.right, right=self.left)

    def mean(self, values: Floats) -> ClusteredMean:
        """Average one value per question."""
        return clustered_mean(values, self.clusters, self.weights, self.strata)

    def cluster_sums(self, values: Floats) -> Floats:
        """Sum the weighted values of each cluster, (clusters,)."""
        weights = np.ones(len(values)) if self.weights is None else np.asarray(self.weights)
        return np.bincount(_ordinals(self.clusters), weights=weights * values).astype(np.float64)


def clustered_mean(
    values: Floats,
    clusters: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> ClusteredMean:
    """Average values and estimate the variance of the mean by linearisation.

    The variance is that of the clusters' sums of weighted distances to the mean of the stratum. A stratum with a single
    cluster has no spread of its own: its distances are taken to the overall mean.

    Args:
        values: one per question.
        clusters: the cluster of each question.
        weights: weight of each question, positive; equal by default.
        strata: stratum of each question; a single one by default.

    Raises:
        ValueError: there are no values, or not as many clusters, weights or strata, or a weight is not positive.
    """
    if not len(values):
        raise ValueError("no questions to average over")
    for name, given in (("clusters", clusters), ("weights", weights), ("strata", strata)):
        if given is not None and len(given) != len(values):
            raise ValueError(f"{len(values)} answers in {len(given)} {name}: give one for each answer")
    share = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (share > 0).all():
        raise ValueError("weights must be positive")
    cluster, stratum = _ordinals(clusters), _ordinals(strata or [None] * len(values))
    mean, count = float(share @ values / share.sum()), int(cluster.max()) + 1
    share = share / share.sum()
    if count < 2:
        return ClusteredMean(mean, 0.0, 0.0, count)
    size = np.bincount(np.unique(np.stack([stratum, cluster]), axis=1)[0])
    centres = np.bincount(stratum, weights=share * values) / np.bincount(stratum, weights=share)
    centres, size = np.where(size > 1, centres, mean), np.where(size > 1, size, count)
    residuals = share * (values - centres[stratum])
    sums = np.bincount(cluster, weights=residuals * np.sqrt(size / (size - 1))[stratum])
    error = float(np.sqrt((sums**2).sum()))
    return ClusteredMean(mean, error if error > 1e-12 else 0.0, float(np.sqrt((residuals**2).sum())), count)


def _ordinals(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number the distinct names in order of appearance, and return the number of each name."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
