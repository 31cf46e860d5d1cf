"""Residuals against an online basis: the formula, the means, and what they promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plain_heads import PlainHead, best, expected, heads, turn
from torch import Tensor

from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, footage, thinned
from kvpress_video.errors import BudgetError


def basis(head: PlainHead, size: int) -> NDArray:
    groups = [head.shown[i : i + head.grid.patches] for i in range(0, head.n, head.grid.patches)]
    first = groups[0]
    count = min(size, len(first))
    found = np.linalg.qr(first[[i * len(first) // count for i in range(count)]].T)[0]
    for _ in range(2):
        found = np.linalg.qr(first.T @ (first @ found))[0]
    usage = [1.0] * count
    for group in groups[1:]:
        usage = [0.9 * s + 0.1 * u for s, u in zip(usage, np.abs(group @ found).mean(axis=0), strict=True)]
        rest = group - group @ found @ found.T
        largest = best(np.linalg.norm(rest, axis=1).tolist(), min(8, size, len(group)))
        new = np.linalg.qr(rest[largest].T)[0]
        new = np.linalg.qr(new - found @ (found.T @ new))[0]
        found = np.concatenate([found, new], axis=1)
        usage = usage + [1.0] * new.shape[1]
        used = best(usage, size)
        found, usage = found[:, used], [usage[i] for i in used]
    return found


def residuals(head: PlainHead, size: int = 2) -> list[float]:
    found = basis(head, size)
    return np.linalg.norm(head.shown - head.shown @ found @ found.T, axis=1).tolist()


each_pass = pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 8, 40)]
)


@each_pass
@pytest.mark.parametrize("size", [1, 2, 256])
def test_scores(entries: Entries, size: int) -> None:
    """Of a width of eight, a basis has two columns at most."""
    scores = make_method("residual", basis=size).scores(entries)
    for row, head, plain in heads(entries):
        torch.testing.assert_close(scores[row, head], torch.tensor(residuals(plain, min(size, 2))).float())


@each_pass
@pytest.mark.parametrize("keep", [3, 12, 36, 61])
def test_selection_without_means(entries: Entries, keep: int) -> None:
    chosen = make_method("residual", means=0.0).select(entries, keep)
    assert chosen.tolist() == expected(entries, lambda head: best(residuals(head), keep))


@each_pass
@pytest.mark.parametrize(("keep", "share"), [(12, 0.25), (36, 0.25), (61, 0.5), (36, 0.05), (20, 1.0)])
def test_means_of_what_is_evicted(entries: Entries, keep: int, share: float) -> None:
    """In the slots of the largest residuals that are left, one per frame; then further entries as they are."""
    kept = make_method("residual", means=share).compress(entries, keep)
    for row, head, plain in heads(entries):
        scores, most = residuals(plain), min(int(share * keep), GRID.frames)
        whole = best(scores, keep - most)
        lost = {frame: [i for i in members if i not in whole] for frame, members in plain.frames.items()}
        first = sorted((max(left, key=lambda i: scores[i]) for left in lost.values() if left), key=lambda i: -scores[i])
        means = first[:most]
        others = best([-1.0 if i in whole or i in means else s for i, s in enumerate(scores)], most - len(means))
        slots = sorted([*whole, *means, *others])
        assert kept.index[row, head].tolist() == entries.index[row, head][slots].tolist()
        for place, slot in enumerate(slots):
            if slot not in means:
                assert torch.equal(kept.keys[row, head, place], entries.keys[row, head, slot])
                continue
            members = lost[plain.frame[slot]]
            position = plain.places[members].mean(axis=0)
            close(kept.places[row, head, place], position)
            close(kept.values[row, head, place], plain.values[members].mean(axis=0))
            close(kept.keys[row, head, place], turn(plain.shown[members].mean(axis=0), position[:3], 1))


def close(one: Tensor, other: NDArray) -> None:
    torch.testing.assert_close(one, torch.tensor(other, dtype=one.dtype), rtol=1e-4, atol=1e-5)


def spanned(noise: float) -> Entries:
    """Everything lies in a plane, but for one entry of frame 6."""
    draw = torch.Generator().manual_seed(5)
    entries = footage()
    plane = torch.randn(2, 8, generator=draw)
    shown = torch.randn(1, 2, GRID.tokens, 2, generator=draw) @ plane + noise * entries.keys
    shown[:, :, 6 * 12 + 4] += torch.randn(8, generator=draw)
    return replace(entries, keys=shown, context=replace(entries.context, rope=None))


def test_what_the_basis_explains_leaves_before_what_it_does_not() -> None:
    """Other mixtures of the same two directions leave little; the one entry with a third direction stays."""
    scores = make_method("residual").scores(spanned(0.01))
    assert scores.argmax(dim=-1).tolist() == [[76, 76]]
    assert (scores.median(dim=-1).values < 0.2 * scores.amax(dim=-1)).all()


def test_directions_that_only_rounding_determines_are_left_out() -> None:
    """Without noise the plane alone is known: what was there from the first frame has no residual."""
    scores = make_method("residual").scores(spanned(0.0))
    others = scores[..., torch.arange(GRID.tokens) != 76]
    assert others.max() < 1e-4
    constant = replace(footage(), keys=torch.ones_like(footage().keys))
    assert make_method("residual").scores(constant).isfinite().all()


@pytest.mark.parametrize(("settings", "message"), [({"basis": 0}, "got 0"), ({"means": 1.5}, "got 1.5")])
def test_wrong_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        make_method("residual", **settings)
