"""Methods for any KV cache, on video: each against its formula, written out entry by entry in double precision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvpress_video.compressor import Entries, Queries, make_method
from kvpress_video.compressor.base import checked_layer_budgets
from kvpress_video.contract.random_entries import GRID, ROPE, first_frames, footage, later, thinned
from kvpress_video.errors import BudgetError, MissingInputError, UnknownNameError

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


# Pyramid


@pytest.mark.parametrize(("beta", "layers"), [(20.0, 28), (4.0, 5), (1.0, 4), (2.5, 1)])
def test_pyramid(beta: float, layers: int) -> None:
    """A straight line from 2·C − C/beta down to C/beta, whose sum is exact."""
    method = make_method("pyramid", beta=beta)
    budgets = [method.layer_budget(1000, layer, layers) for layer in range(layers)]
    assert sum(budgets) == 1000 * layers
    last = 1000 / beta if layers > 1 else 1000
    first = 2000 - last
    for layer, budget in enumerate(budgets):
        assert abs(budget - (first + (last - first) * layer / max(1, layers - 1))) <= 1
    assert checked_layer_budgets(method, 1000, layers) == tuple(budgets)


def test_a_pyramid_that_leaves_a_layer_nothing_is_an_error() -> None:
    with pytest.raises(
        BudgetError, match=r"3 entries per layer leaves none for layer 2\d under beta=20.0: raise the budget or"
    ):
        [make_method("pyramid").layer_budget(3, layer, 28) for layer in range(28)]


# Chunk


def boxes_in_order(entries: Entries, row: int, scores: Tensor, size: tuple[int, int]) -> list[set[tuple[int, ...]]]:
    """Places (frame, row, column) of the neighbourhoods, the best mean over entries and heads first."""
    found: dict[tuple[int, ...], list[float]] = {}
    members: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for head in range(entries.keys.shape[1]):
        for frame, patch, score in zip(entries.frame[row, head].tolist(), entries.patch[row, head].tolist(),
                                       scores[row, head].double().tolist(), strict=True):  # fmt: skip
            y, x = divmod(patch, entries.grid.columns)
            box = (frame, y // size[0], x // size[1])
            found.setdefault(box, []).append(score)
            members.setdefault(box, set()).add((frame, y, x))
    return [members[box] for box in sorted(found, key=lambda box: -sum(found[box]) / len(found[box]))]


@at_first_and_later
@pytest.mark.parametrize("size", [(3, 3), (2, 3), (1, 1), (2, 2), (9, 9)])
@pytest.mark.parametrize("keep", [1, 17, 40])
def test_chunk(entries: Entries, size: tuple[int, int], keep: int) -> None:
    """Whole boxes in the order of their mean, and the first patches of one more."""
    base = make_method("key-norm")
    kept = make_method("chunk", base=base, rows=size[0], columns=size[1]).compress(entries, keep)
    for row, head in each_head(entries):
        held = {place(entries, row, head, i) for i in range(len(entries))}
        expected: list[tuple[int, ...]] = []
        for box in boxes_in_order(entries, row, base.scores(entries), size):
            expected += sorted(box & held)
        assert [place(kept, row, head, i) for i in range(keep)] == sorted(expected[:keep])


def place(entries: Entries, row: int, head: int, slot: int) -> tuple[int, ...]:
    return (int(entries.frame[row, head, slot]), *divmod(int(entries.patch[row, head, slot]), entries.grid.columns))


def test_heads_of_a_stream_keep_the_same_neighbourhoods() -> None:
    entries, method = footage(), make_method("chunk", base="snapkv", rows=2, columns=2)
    kept = method.compress(later(method.compress(first_frames(entries, 7), 40), entries, 7), 50)
    assert torch.equal(kept.tags[:, 0], kept.tags[:, 1])


@pytest.mark.parametrize("wrapper", ["chunk", "critical"])
def test_wrappers_need_a_base_that_scores(wrapper: str) -> None:
    for base in ("memory-bank", "average-pooling"):
        with pytest.raises(UnknownNameError, match="one score per entry"):
            make_method(wrapper, base=base)
    with pytest.raises(BudgetError, match=rf"Pyramid makes layers differ and cannot be the base of {wrapper.title()}"):
        make_method(wrapper, base="pyramid")
    assert make_method("pyramid", base=f"{wrapper}:base=tova").observer == make_method("tova")


# Critical


@at_first_and_later
@pytest.mark.parametrize("base", ["snapkv", "key-norm", "van"])
@pytest.mark.parametrize(("keep", "first"), [(30, 0.5), (31, 0.5), (17, 0.0), (17, 1.0), (1, 0.5)])
def test_critical(entries: Entries, base: str, keep: int, first: float) -> None:
    """Half by score, the rest by (score + ε) times the mean L1 norm of what two query heads add to the output."""
    weight = entries.context.output_weight
    assert weight is not None
    found = make_method("critical", base=base, first=first).select(entries, keep)
    scored = make_method(base).scores(entries).double()
    for row, head in each_head(entries):
        scores = (scored[row, head] - min(0.0, float(scored[row, head].min()))).tolist()
        norms = [
            sum(float((value @ weight[head, query].double()).abs().sum()) for query in range(2)) / 2
            for value in entries.values[row, head].double()
        ]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        chosen = order[: int(first * keep)]
        rest = [i for i in range(len(scores)) if i not in chosen]
        rest = sorted(rest, key=lambda i: -(scores[i] + 1e-4) * norms[i])
        assert found[row, head].tolist() == sorted(chosen + rest[: keep - len(chosen)])


def test_critical_without_an_output_projection_says_so() -> None:
    entries = footage()
    blind = replace(entries, context=replace(entries.context, output_weight=None))
    with pytest.raises(MissingInputError, match="'critical' needs the output projection"):
        make_method("critical").select(blind, 30)


# Expected attention


def expected_attention(entries: Entries, row: int, head: int, future: int, covariance: bool) -> Tensor:
    """The mean, over two query heads, of softmax(k·Rμ + ½·kᵀRΣRᵀk), R averaged as a matrix."""
    queries = entries.context.queries
    assert queries is not None
    assert queries.positions is not None
    places = queries.positions[row].double()
    start = int(places.max()) + 1
    turns = [rotation([float(start + step)] * 3) for step in range(future)]
    average = sum(turns[1:], turns[0]) / future
    total = torch.zeros(len(entries), dtype=torch.float64)
    for query in (2 * head, 2 * head + 1):
        states = [rotation(at).T @ state for state, at in
                  zip(queries.states[row, query].double(), places.tolist(), strict=True)]  # fmt: skip
        mean = sum(states) / len(states)
        spread = sum(torch.outer(state - mean, state - mean) for state in states) / len(states)
        turned = average @ spread @ average.T if covariance else torch.zeros(8, 8, dtype=torch.float64)
        keys = entries.keys[row, head].double()
        total += torch.stack([key @ (average @ mean) + key @ turned @ key / 2 for key in keys]).softmax(dim=0) / 2
    return total


def rotation(position: list[float]) -> Tensor:
    """R(position) as a matrix."""
    half, matrix = len(ROPE.frequencies), torch.zeros(8, 8, dtype=torch.float64)
    for i, (frequency, axis) in enumerate(zip(ROPE.frequencies.tolist(), ROPE.axes.tolist(), strict=True)):
        angle = frequency * position[axis]
        matrix[i, i] = matrix[i + half, i + half] = math.cos(angle)
        matrix[i, i + half], matrix[i + half, i] = -math.sin(angle), math.sin(angle)
    return matrix


@at_first_and_later
@pytest.mark.parametrize(("future", "covariance"), [(1, True), (20, True), (20, False)])
def test_expected_attention(entries: Entries, future: int, covariance: bool) -> None:
    plain = scores_of("expected-attention", entries, future=future, covariance=covariance, value_norm=False)
    weighted = scores_of("expected-attention", entries, future=future, covariance=covariance, epsilon=0.01)
    for row, head in each_head(entries):
        expected = expected_attention(entries, row, head, future, covariance)
        close(plain[row, head], expected, 1e-3)
        close(weighted[row, head], (expected + 0.01) * entries.values[row, head].double().norm(dim=-1), 1e-3)


def test_padding_is_no_query() -> None:
    """A row whose window begins with padding scores as one with a shorter window."""
    entries = footage()
    queries = entries.context.queries
    assert queries is not None
    assert queries.positions is not None
    padded = replace(queries, index=queries.index.clone())
    padded.index[:, 0] = -1
    shorter = Queries(queries.states[:, :, 1:], queries.normaliser[..., 1:], queries.index[:, 1:],
                      queries.positions[:, 1:])  # fmt: skip
    found, expected = (
        scores_of("expected-attention", replace(entries, context=replace(entries.context, queries=asked)))
        for asked in (padded, shorter)
    )
    close(found, expected)


def test_expected_attention_without_positions_says_so() -> None:
    entries = footage()
    queries = entries.context.queries
    assert queries is not None
    blind = replace(entries, context=replace(entries.context, queries=replace(queries, positions=None)))
    with pytest.raises(MissingInputError, match="'expected-attention' needs captured queries and their positions"):
        make_method("expected-attention").scores(blind)


# KVzip


@at_first_and_later
def test_kvzip(entries: Entries) -> None:
    """The strongest attention of any query that may see the entry, of two query heads."""
    queries = entries.context.queries
    assert queries is not None
    found = scores_of("kvzip", entries)
    for row, head in each_head(entries):
        strongest = [0.0] * len(entries)
        for query in (2 * head, 2 * head + 1):
            states, normalisers = queries.states[row, query].double(), queries.normaliser[row, query].double()
            for state, normaliser, last in zip(states, normalisers, queries.index[row].tolist(), strict=True):
                for i, key in enumerate(entries.keys[row, head].double()):
                    if int(entries.index[row, head, i]) <= last:
                        strongest[i] = max(strongest[i], math.exp(float(state @ key) - float(normaliser)))
        close(found[row, head], strongest)
