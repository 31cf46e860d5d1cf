"""Which labels stay: those of frames spread evenly over what was seen, the newest always among them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from heapq import heapify, heappop, heappush
from types import MappingProxyType


def spread_labels(labels: Mapping[int, int], room: int) -> dict[int, int]:
    """Choose the labels that stay.

    As long as they take more than `room`, the one goes without which the gap between its neighbours is smallest, the
    oldest of several. The newest stays, and the first is the last to go before it. What is held in a stream thus stays
    evenly spread, however often labels are chosen among those left.

    Args:
        labels: tokens of each frame's label, by frame, ascending.
        room: most tokens that may stay.

    Returns:
        The labels that stay, as `labels`; none where the newest does not fit.
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
            continue  # a neighbour went since: the wider gap is in the heap as well
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
