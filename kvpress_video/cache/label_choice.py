"""The choice of labels that stay: evenly spread over the frames seen, always including the newest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from heapq import heapify, heappop, heappush
from types import MappingProxyType


def spread_labels(labels: Mapping[int, int], room: int) -> dict[int, int]:
    """Select the labels that stay.

    While they take more than `room`, the label whose removal leaves the smallest gap is removed, the oldest of several.
    The newest always stays, and the first is removed last. In a stream, the labels thus stay evenly spread over any
    number of selections.

    Args:
        labels: number of tokens of each frame's label, by frame, ascending.
        room: maximum number of tokens.

    Returns:
        The labels that stay, as `labels`; none if the newest does not fit.
    """
    return dict(_spread(tuple(labels.items()), room))


@lru_cache(maxsize=16)
def _spread(labels: tuple[tuple[int, int], ...], room: int) -> Mapping[int, int]:
    taken = sum(tokens for _, tokens in labels)
    frames = [frame for frame, _ in labels]
    before, after = list(range(-1, len(frames) - 1)), list(range(1, len(frames) + 1))
    inner = [(frames[place + 1] - frames[place - 1], place) for place in range(1, len(frames) - 1)]
    heapify(inner)
    gone: set[int] = set()
    while taken > room and inner:
        gap, place = heappop(inner)
        left, right = before[place], after[place]
        if gap != frames[right] - frames[left]:
            continue  # outdated, since a neighbour was removed: the wider gap is in the heap as well
        gone.add(place)
        taken -= labels[place][1]
        after[left], before[right] = right, left
        for other in (left, right):
            if 0 < other < len(frames) - 1:
                heappush(inner, (frames[after[other]] - frames[before[other]], other))
    for place in (0, len(labels) - 1):
        if taken > room and labels and place not in gone:
            gone.add(place)
            taken -= labels[place][1]
    return MappingProxyType({frame: tokens for place, (frame, tokens) in enumerate(labels) if place not in gone})
