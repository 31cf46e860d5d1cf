"""Methods that choose entries which differ from one another: formulas, and what each promises of its choice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from kvpress_video.methods._rotation import unrotated
from kvpress_video.methods.reconstruction import features
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import ROPE, footage, thinned

at_first_and_later = pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(), 7, 36)], ids=["first pass", "later pass"]
)


def with_plain_keys(entries: Entries, keys: Tensor) -> Entries:
    """Entries whose keys, un-rotated, are these."""
    return replace(entries, keys=ROPE.rotate(keys, entries.present))


@at_first_and_later
def test_diversity_is_the_mean_cosine_with_the_others(entries: Entries) -> None:
    keys = ROPE.rotate(entries.keys.double().float(), -entries.present)
    keys = keys - keys.mean(dim=2, keepdim=True)
    alike = cosine_similarity(keys[:, :, :, None], keys[:, :, None], dim=-1)
    others = 1 - torch.eye(len(entries))
    expected = -(alike * others).sum(dim=-1) / (len(entries) - 1)
    torch.testing.assert_close(make_method("diversity").scores(entries), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["diversity", "uncentred"])
def test_a_common_offset_does_not_change_diversity(method: str) -> None:
    """Without centring it would: every key looks like every other."""
    entries = footage()
    plain = unrotated(entries)
    moved = with_plain_keys(entries, plain + 30 * torch.randn(1, 2, 1, 8, generator=torch.Generator().manual_seed(3)))

    def scores(cached: Entries) -> Tensor:
        if method == "diversity":
            return make_method(method).scores(cached)
        unit = normalize(unrotated(cached), dim=-1)
        return -(unit @ unit.sum(dim=2)[..., None])[..., 0] / len(cached)

    same = torch.allclose(scores(entries), scores(moved), atol=1e-3)
    assert same == (method == "diversity")


@pytest.mark.parametrize("top_k", [1, 2])
def test_slots_keep_entries_of_every_group(top_k: int) -> None:
    """Twelve groups of very different sizes: a random sample of twelve misses the small ones."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[torch.arange(12) % 8] * torch.where(torch.arange(12) < 8, 1.0, -1.0)[:, None]
    sizes = [84, 6, 2, 2, 2, 2, 2, 2, 4, 4, 5, 5]
    group = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    group = group[torch.randperm(120, generator=draw)]
    keys = centres[group] + 0.05 * torch.randn(1, 2, 120, 8, generator=draw)
    kept = make_method("slots", top_k=top_k).select(with_plain_keys(footage(), keys), 12 * top_k)
    for head in (0, 1):
        assert set(group[kept[0, head]].tolist()) == set(range(12))


SMALL = [1, 2, 4, 8, 12, 15]
"""Budgets below the width of a row."""


def error(rows: Tensor, kept: Tensor) -> float:
    """Least-squares error of all rows (n, width) from those kept."""
    basis = rows[kept]
    return float((rows - rows @ torch.linalg.pinv(basis) @ basis).square().sum())


@at_first_and_later
@pytest.mark.parametrize("method", ["reconstruction", "slots"])
def test_the_error_of_a_reconstruction_falls_with_the_budget(entries: Entries, method: str) -> None:
    rows = features(entries).double()[0, 0]
    errors = [error(rows, make_method(method).select(entries, keep)[0, 0]) for keep in SMALL]
    assert all(later < before for before, later in pairwise(errors))


@at_first_and_later
def test_reconstruction_beats_random(entries: Entries) -> None:
    rows = features(entries).double()[0, 0]
    for keep in SMALL:
        found = error(rows, make_method("reconstruction").select(entries, keep)[0, 0])
        drawn = [error(rows, make_method("random", seed=seed).select(entries, keep)[0, 0]) for seed in range(10)]
        assert found < sum(drawn) / len(drawn)


def test_smaller_budgets_choose_among_what_larger_ones_do() -> None:
    method, entries = make_method("reconstruction"), footage()
    small, large = (method.select(entries, keep)[0, 0].tolist() for keep in (20, 60))
    assert set(small) < set(large)


def test_reconstruction_pivots_as_a_qr_decomposition_does() -> None:
    entries = footage()
    rows = features(entries).double()[0, 0]
    residual, pivots = rows.clone(), []
    for _ in range(10):
        pivots.append(int(residual.square().sum(dim=-1).argmax()))
        direction = normalize(residual[pivots[-1]], dim=0)
        residual = residual - residual @ direction[:, None] * direction
    kept = make_method("reconstruction", ridge=1e-6).select(entries, 10)[0, 0]
    assert kept.tolist() == sorted(pivots)
