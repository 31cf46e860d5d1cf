"""Buckets of positions against their rule, and what they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_heads import PlainHead, expected

from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, first_frames, footage, later, thinned
from kvpress_video.errors import BudgetError, KVPressVideoError, UnknownNameError


def bucketed(head: PlainHead, scores: list[float], keep: int, free: float, capacity: int) -> list[int]:
    buckets = -(-keep // capacity)
    order = sorted(range(head.n), key=lambda i: -scores[i])
    bucket = [(f * head.grid.patches + p) * buckets // head.grid.tokens for f, p in zip(head.frame, head.patch)]  # noqa: B905
    chosen = order[: int(free * keep)]
    filled = [bucket[i] for i in chosen]
    for i in order[len(chosen) :]:
        if len(chosen) < keep and filled.count(bucket[i]) < capacity:
            chosen.append(i)
            filled.append(bucket[i])
    rest = [i for i in order if i not in chosen]
    return sorted(chosen + rest[: keep - len(chosen)])


@pytest.mark.parametrize("entries", [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 8, 40)])
@pytest.mark.parametrize(("free", "capacity"), [(0.5, 1), (0.0, 1), (0.2, 4), (0.0, 7), (1.0, 1)])
@pytest.mark.parametrize("keep", [1, 12, 36, 61])
def test_bucketed(entries: Entries, free: float, capacity: int, keep: int) -> None:
    def rule(head: PlainHead) -> list[int]:
        lengths = (head.values**2).sum(axis=1) ** 0.5
        return bucketed(head, lengths.tolist(), keep, free, capacity)

    method = make_method("bucketed", base="van", free=free, capacity=capacity)
    assert method.select(entries, keep).tolist() == expected(entries, rule)


def test_without_a_limit_it_is_its_base() -> None:
    for base in ("snapkv", "van", "evs"):
        chosen = make_method("bucketed", base=base, free=1.0).select(footage(), 30)
        assert torch.equal(chosen, make_method(base).select(footage(), 30))


def test_every_bucket_is_covered_where_nothing_was_evicted() -> None:
    chosen = make_method("bucketed", base="van", free=0.0, capacity=3).select(footage(), 36)[0, 0]
    assert torch.bincount(chosen * 12 // GRID.tokens, minlength=12).tolist() == [3] * 12


def test_a_stream_stays_covered_whatever_the_base_prefers() -> None:
    """Key norms that grow with time let key-norm forget everything but the beginning."""
    entries = footage(GRID._replace(frames=40))
    entries.keys.mul_(torch.linspace(1, 50, len(entries))[:, None])

    def halves(method: str, **settings: Any) -> list[int]:
        made, cached = make_method(method, **settings), first_frames(entries, 0)
        for seen in range(4, 41, 4):
            cached = later(cached, first_frames(entries, seen), seen - 4)
            cached = made.compress(cached, 40) if len(cached) > 40 else cached
        return torch.histc(cached.frame[0, 0].float(), 4, 0, 40).int().tolist()

    assert halves("key-norm")[1:] == [0, 0, 0]
    assert min(halves("bucketed", base="key-norm", free=0.0)) >= 8


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"free": -0.1}, BudgetError, "got -0.1"), ({"capacity": 0}, BudgetError, "got 0"),
    ({"base": "infinipot-v"}, UnknownNameError, "one score per entry"),
    ({"base": "evz"}, UnknownNameError, "Did you mean 'evs'"),
])  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], error: type[KVPressVideoError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_method("bucketed", **settings)


def test_it_works_where_its_base_does() -> None:
    assert make_method("bucketed", base="evs").stages == ("cache", "input")
    assert make_method("bucketed").stages == ("cache",)
    assert make_method("bucketed").needs == {"queries"}
