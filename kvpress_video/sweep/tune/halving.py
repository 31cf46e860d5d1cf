"""Successive halving: many candidates on few clips, then the best third of them on three times as many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

REDUCTION = 3
"""Reduction factor: one in three candidates advances to the next rung, which has three times the clips."""
LEAST = 2
"""Minimum number of candidates in the last rung."""
FEWEST_CLIPS = 4
"""Number of clips in the first rung, at least: fewer would mostly measure chance."""

Scores = Mapping[str, float | None]
"""Scores of candidates; None for those that failed."""


def rungs(clips: int) -> list[int]:
    """Return how many clips each rung has, ascending; the last one has all."""
    sizes = [clips]
    while sizes[0] > FEWEST_CLIPS:
        sizes.insert(0, max(FEWEST_CLIPS, -(-sizes[0] // REDUCTION)))
    return sizes[-3:]


def halve(candidates: Sequence[str], sizes: Sequence[int], score: Callable[[Sequence[str], int], Scores]) -> Scores:
    """Run the rungs, and return the last score of each candidate, best first within a rung.

    Candidates that tie with the last one to advance advance too. Of equal ones, the earlier comes first, and those that
    reached a later rung come before all others.

    Args:
        candidates: candidates in order.
        sizes: clips of each rung.
        score: scores some candidates on a number of clips.
    """
    alive, order = list(candidates), dict[str, float | None]()
    for place, size in enumerate(sizes):
        found = score(alive, size)
        scored = {each: value for each in alive if (value := found[each]) is not None}
        ranked = dict(sorted(scored.items(), key=lambda item: item[1], reverse=True))
        failed = dict.fromkeys(each for each in alive if each not in scored)
        order = {**ranked, **{each: value for each, value in order.items() if each not in ranked}, **failed}
        if place + 1 < len(sizes):
            best = list(ranked.values())[: max(LEAST, -(-len(alive) // REDUCTION))]
            alive = [each for each, value in ranked.items() if value >= best[-1]]
    return order
