"""Methods for any KV cache, on video: each against its formula, written out entry by entry in double precision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_entries import GRID, ROPE, footage, thinned
from torch import Tensor

from kvpress_video.compressor import Entries, make_method

at_first_and_later = pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(batch=2), 7, 36)], ids=["first pass", "later pass"]
)


def scores_of(name: str, entries: Entries, **settings: Any) -> Tensor:
    return make_method(name, **settings).scores(entries).double()


def each_head(entries: Entries) -> list[tuple[int, int]]:
    return [(row, head) for row in range(entries.keys.shape[0]) for head in range(entries.keys.shape[1])]


def close(found: Tensor, expected: Any, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=tolerance, atol=1e-5)


def upright(entries: Entries, row: int, head: int) -> list[Tensor]:
    """Keys without their rotation, turned back pair by pair."""
    half, keys = len(ROPE.frequencies), []
    for key, place in zip(entries.keys[row, head].double(), entries.position[row, head].double(), strict=True):
        back = key.clone()
        for i, (frequency, axis) in enumerate(zip(ROPE.frequencies.tolist(), ROPE.axes.tolist(), strict=True)):
            angle = -frequency * float(place[axis])
            x, y = key[i], key[i + half]
            back[i] = x * math.cos(angle) - y * math.sin(angle)
            back[i + half] = y * math.cos(angle) + x * math.sin(angle)
        keys.append(back)
    return keys


# KeyDiff


@at_first_and_later
def test_keydiff(entries: Entries) -> None:
    found = scores_of("keydiff", entries)
    for row, head in each_head(entries):
        keys = entries.keys[row, head].double()
        mean = sum(key / key.norm() for key in keys) / len(keys)
        close(found[row, head], [-float(key @ mean / (key.norm() * mean.norm())) for key in keys])


def test_keydiff_is_novelty_from_one_mean_without_a_preference_for_the_last_frame() -> None:
    entries = footage(batch=2)
    other = make_method("novelty", reference="global", last_frame=0.0)
    assert torch.equal(make_method("keydiff").select(entries, 30), other.select(entries, 30))


# TOVA


@at_first_and_later
def test_tova(entries: Entries) -> None:
    """One query, of all heads; the fixture captures three, of which the last sees everything."""
    queries = entries.context.queries
    assert queries is not None
    last = replace(queries, **{name: getattr(queries, name)[..., -1:, :] for name in ("states",)},
                   normaliser=queries.normaliser[..., -1:], index=queries.index[:, -1:])  # fmt: skip
    found = scores_of("tova", replace(entries, context=replace(entries.context, queries=last)))
    for row in range(len(found)):
        drawn = torch.zeros(len(entries), dtype=torch.float64)
        for number, state in enumerate(last.states[row, :, 0].double()):
            for i, key in enumerate(entries.keys[row, number // 2].double()):
                drawn[i] += math.exp(float(state @ key) - float(last.normaliser[row, number, 0])) / 4
        close(found[row, 0], drawn)
        assert torch.equal(found[row, 0], found[row, 1])


# LagKV


def lagkv(keys: Tensor, values: Tensor, sinks: int, lag: int) -> list[float]:
    """Ranks within windows, and 1 for what is protected."""
    windows = max(0, (len(keys) - sinks) // lag - 1)
    scores = [1.0] * len(keys)
    for window in range(windows):
        mine = range(sinks + window * lag, sinks + (window + 1) * lag)
        total = [0.0] * lag
        for states in (keys.double(), values.double()):
            after = states[mine.stop : mine.stop + lag]
            low, high = after.min(dim=0).values, after.max(dim=0).values
            spread = [float(((states[i] - low) / (high - low)).std()) for i in mine]
            weights = [math.exp(x - max(spread)) for x in spread]
            total = [a + weight / sum(weights) for a, weight in zip(total, weights, strict=True)]
        for i, mark in zip(mine, total, strict=True):
            scores[i] = sum(other < mark for other in total) / lag
    return scores


@at_first_and_later
@pytest.mark.parametrize(("sinks", "lag"), [(4, 12), (0, 7), (4, 128), (0, 30), (3, 2)])
def test_lagkv(entries: Entries, sinks: int, lag: int) -> None:
    found = scores_of("lagkv", entries, sinks=sinks, lag=lag)
    for row, head in each_head(entries):
        expected = lagkv(entries.keys[row, head], entries.values[row, head], sinks, lag)
        close(found[row, head].clamp_max(1), expected)


@pytest.mark.parametrize("keep", [6, 14, 30])
def test_a_budget_below_what_lagkv_protects_keeps_the_sinks_and_the_newest(keep: int) -> None:
    """120 entries, four sinks: windows of 30 protect the last 56."""
    found = make_method("lagkv", lag=30).select(footage(), keep)
    assert found[0, 0].tolist() == [*range(4), *range(120 - keep + 4, 120)]


def test_a_window_without_variation_is_no_division_by_zero() -> None:
    entries = footage()
    still = replace(entries, values=torch.ones_like(entries.values))
    assert make_method("lagkv", lag=12).scores(still).isfinite().all()


# Leverage


@at_first_and_later
def test_leverage(entries: Entries) -> None:
    """The sketch is wider than a head here, so that nothing is projected."""
    found = scores_of("leverage", entries)
    for row, head in each_head(entries):
        keys = torch.stack(upright(entries, row, head))
        centred = keys - keys.mean(dim=0)
        inverse = (centred.T @ centred + 0.01 * torch.eye(8, dtype=torch.float64)).inverse()
        close(found[row, head], [float(x @ inverse @ x) for x in centred])


def test_leverage_depends_on_no_rotation_of_all_keys() -> None:
    """A segment that comes later scores the same: its keys are un-rotated first."""
    entries = footage()
    moved = replace(entries, keys=ROPE.rotate(entries.keys, torch.tensor([5.0, 5.0, 5.0])))
    places = entries.places.clone()
    places[..., :3] += 5
    found = scores_of("leverage", replace(moved, places=places), sketch=6)
    torch.testing.assert_close(found, scores_of("leverage", entries, sketch=6), rtol=1e-3, atol=1e-5)
    other = scores_of("leverage", moved, sketch=6)
    assert (other - found).abs().max() > 1e-2


def test_a_sketch_approximates_leverage_and_its_seed_is_a_setting() -> None:
    entries = footage(GRID)
    exact, *drawn = (
        scores_of("leverage", entries, sketch=sketch, seed=seed) for sketch, seed in ((8, 0), (6, 0), (6, 1), (6, 0))
    )
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    for sketched in drawn:
        assert torch.corrcoef(torch.stack([exact.flatten(), sketched.flatten()]))[0, 1] > 0.6
    assert float(exact.sum(dim=-1).max()) <= 8  # leverage scores sum to the rank
