"""Means over questions that come in clusters, and their standard errors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Question = TypeVar("Question", bound=Hashable)


@dataclass(frozen=True)
class ClusteredMean:
    """A weighted mean, its standard error, the one it had were questions independent, and the number of clusters."""

    mean: float
    error: float
    independent: float
    clusters: int


@dataclass(frozen=True)
class Paired:
    """Scores of two on the questions that both answered, and what is known of these questions, in one order."""

    left: Floats
    right: Floats
    clusters: list[Hashable]
    weights: list[float] | None
    strata: list[Hashable] | None

    @classmethod
    def of(
        cls,
        left: Mapping[Question, float],
        right: Mapping[Question, float],
        clusters: Mapping[Question, Hashable],
        weights: Mapping[Question, float] | None,
        strata: Mapping[Question, Hashable] | None,
    ) -> Paired:
        """Of the questions that both answered."""
        shared = [question for question in left if question in right]
        return cls(
            np.array([left[question] for question in shared], dtype=np.float64),
            np.array([right[question] for question in shared], dtype=np.float64),
            [clusters[question] for question in shared],
            None if weights is None else [weights[question] for question in shared],
            None if strata is None else [strata[question] for question in shared],
        )

    def estimate(self, values: Floats) -> ClusteredMean:
        """The mean of values that are in its order."""
        return estimate(values, self.clusters, self.weights, self.strata)

    def sums(self, values: Floats) -> Floats:
        """Weighted, by cluster."""
        weights = np.ones(len(values)) if self.weights is None else np.asarray(self.weights)
        return np.bincount(_ordinals(self.clusters), weights=weights * values).astype(np.float64)


def estimate(
    values: Floats,
    clusters: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> ClusteredMean:
    """By linearisation: the variance is that of clusters' sums of weighted distances to the mean of the stratum.

    A stratum with a single cluster, which tells nothing of its spread, is held to the mean of all.

    Args:
        values: of each question.
        clusters: the cluster of each question.
        weights: of each question, positive; equal by default.
        strata: of each question; one by default.

    Raises:
        ValueError: there are no values, or not as many clusters, weights or strata, or a weight is not positive.
    """
    if not len(values):
        raise ValueError("no questions to average over")
    for what, given in (("clusters", clusters), ("weights", weights), ("strata", strata)):
        if given is not None and len(given) != len(values):
            raise ValueError(f"{len(values)} answers in {len(given)} {what}: give one for each answer")
    share = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (share > 0).all():
        raise ValueError("weights must be positive")
    owner, layer = _ordinals(clusters), _ordinals(strata or [None] * len(values))
    mean, count = float(share @ values / share.sum()), int(owner.max()) + 1
    share = share / share.sum()
    if count < 2:
        return ClusteredMean(mean, 0.0, 0.0, count)
    held = np.bincount(np.unique(np.stack([layer, owner]), axis=1)[0])
    centres = np.bincount(layer, weights=share * values) / np.bincount(layer, weights=share)
    centres, held = np.where(held > 1, centres, mean), np.where(held > 1, held, count)
    residuals = share * (values - centres[layer])
    sums = np.bincount(owner, weights=residuals * np.sqrt(held / (held - 1))[layer])
    error = float(np.sqrt((sums**2).sum()))
    return ClusteredMean(mean, error if error > 1e-12 else 0.0, float(np.sqrt((residuals**2).sum())), count)


def _ordinals(names: Sequence[Hashable]) -> NDArray[np.int64]:
    """The place of each name among the different ones."""
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)
