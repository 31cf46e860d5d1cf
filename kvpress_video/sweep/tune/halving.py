"""Successive halving: many candidates on few clips, then the best third of them on three times as many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

REDUCTION = 3
"""Reduction factor: one in three candidates advances to the next rung, which has three times the clips."""
LEAST = 2
"""Minimum number of candidates in the last rung, and of clips in the first."""

Scores = Mapping[str, float | None]
"""Scores of candidates; None for those that failed."""


def rungs(clips: int) -> list[int]:
    """Return how many clips each rung has, ascending; the last one has all."""
    sizes = [clips]
    while sizes[0] > LEAST:
        sizes.insert(0, max(LEAST, -(-sizes[0] // REDUCTION)))
    return sizes[-3:]


def halve(candidates: Sequence[str], sizes: Sequence[int], score: Callable[[Sequence[str], int], Scores]) -> Scores:
    """Run the rungs, and return the last score of each candidate, best first within a rung.

    Ties go to the earlier candidate. Those that reached a later rung come before all others.

    Args:
        candidates: candidates in order.
        sizes: clips of each rung.
        score: scores some candidates on a number of clips.
    """
    alive, order = list(candidates), dict[str, float | None]()
    for place, size in enumerate(sizes):
        scores = score(alive, size)
        ranked = sorted(
            (each for each in alive if scores[each] is not None), key=lambda each: scores[each] or 0.0, reverse=True
        )
        failed = {each: None for each in alive if scores[each] is None}
        left = {each: scores[each] for each in ranked}
        order = {**left, **{each: value for each, value in order.items() if each not in left}, **failed}
        if place + 1 < len(sizes):
            alive = ranked[: max(LEAST, -(-len(alive) // REDUCTION))]
    return order
