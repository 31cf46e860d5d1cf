"""Which labels stay: spread evenly, the newest always, and still spread after many choices among those left."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kvpress_video.cache.label_choice import spread_labels


@pytest.mark.parametrize("room", [10, 25, 30, 95, 100, 400, 1000])
def test_labels_that_stay_fit_and_hold_the_newest(room: int) -> None:
    labels = dict.fromkeys(range(100), 10)
    kept = spread_labels(labels, room)
    assert sum(kept.values()) <= room < sum(kept.values()) + 10 or len(kept) == 100
    assert list(kept) == sorted(kept)
    assert 99 in kept
    if room >= 20:
        assert 0 in kept


def test_all_stay_where_they_fit() -> None:
    labels = {3: 4, 7: 5}
    assert dict(spread_labels(labels, 9)) == labels


def test_none_stays_where_the_newest_does_not_fit() -> None:
    assert dict(spread_labels({0: 2, 1: 8}, 7)) == {}
    assert dict(spread_labels({}, 5)) == {}


def test_a_long_label_does_not_cost_the_newest() -> None:
    assert dict(spread_labels({0: 50, 1: 3, 2: 3}, 6)) == {2: 3}


@pytest.mark.parametrize("labels", [5, 16, 40])
def test_gaps_stay_even_in_a_stream(labels: int) -> None:
    held: dict[int, int] = {}
    for frame in range(3000):
        held = dict(spread_labels({**held, frame: 7}, 7 * labels))
        assert frame in held
    frames = sorted(held)
    gaps = [after - before for before, after in pairwise(frames)]
    assert len(frames) == labels
    assert max(gaps) <= 3 * 3000 / labels
