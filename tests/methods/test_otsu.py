"""The rule with Otsu's thresholds against its formula, and what it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_heads import PlainHead, best, expected

from kvpress_video.compressor.entries import Entries, Grid
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, ROPE, footage, thinned
from kvpress_video.errors import BudgetError


def threshold(distances: list[float]) -> float:
    """The start of the upper class, for the largest variance between two classes."""
    ordered = sorted(distances)
    found = (0.0, ordered[0])
    for split in range(1, len(ordered)):
        low, high = ordered[:split], ordered[split:]
        between = len(low) * len(high) * (np.mean(low) - np.mean(high)) ** 2
        if between > found[0]:
            found = (between, ordered[split])
    return found[1]


def distances(head: PlainHead, step: int) -> list[float]:
    """To the cached frame before or after, NaN where nothing of it is near."""
    frames, columns = sorted(head.frames), head.grid.columns
    found = []
    for i in range(head.n):
        at = frames.index(head.frame[i]) + step
        near = [
            float(head.units[i] @ head.units[j])
            for j in (head.frames[frames[at]] if 0 <= at < len(frames) else [])
            if abs(head.patch[j] // columns - head.patch[i] // columns) <= 1
            and abs(head.patch[j] % columns - head.patch[i] % columns) <= 1
        ]
        found.append(1 - max(near) if near else float("nan"))
    return found


def otsu(head: PlainHead, keep: int, recent: int, alike: float) -> list[int]:
    before, after = distances(head, -1), distances(head, 1)
    scores = []
    for i in range(head.n):
        mates = head.frames[head.frame[i]]
        far = False
        for each in (before, after):
            known = [each[j] for j in mates if not np.isnan(each[j])]
            far |= bool(known) and each[i] >= threshold(known)
        changed = np.isnan(after[i]) or (far and 1 - after[i] <= alike)
        scores.append(max(np.nan_to_num(before[i]), np.nan_to_num(after[i], nan=2.0)) + 4 * changed)
    patches = head.grid.patches
    half = [frames for frames in range(1, recent + 1) if 2 * frames * patches <= keep]
    recent = max(half, default=min(recent, int(patches <= keep)))
    return best([9.0 if head.frame[i] >= head.grid.frames - recent else scores[i] for i in range(head.n)], keep)


SCENES = [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 8, 40), thinned(footage(), 9, 20)]


@pytest.mark.sampled
@pytest.mark.parametrize("entries", SCENES, ids=["first pass", "later pass", "later pass, uneven", "few left"])
@pytest.mark.parametrize(("recent", "alike"), [(8, 0.8), (2, 0.8), (0, 0.3), (0, 1.0)])
@pytest.mark.parametrize("keep", [3, 14, 30])
def test_otsu(entries: Entries, recent: int, alike: float, keep: int) -> None:
    chosen = make_method("otsu", recent=recent, alike=alike).select(entries, keep)
    assert chosen.tolist() == expected(entries, lambda head: otsu(head, keep, recent, alike))


def moving(noise: float = 0.02) -> tuple[Entries, set[int]]:
    """A still scene with a little noise, through which another content moves by one column a frame."""
    grid = Grid(10, 5, 12)
    entries = footage(grid)
    scene = entries.keys[:, :, : grid.patches].repeat(1, 1, grid.frames, 1)
    shown = scene + noise * entries.keys
    places = {frame * grid.patches + 2 * grid.columns + 1 + frame for frame in range(grid.frames)}
    shown[:, :, sorted(places)] = torch.tensor([5.0, -5, 5, -5, 5, -5, 5, -5])
    return replace(entries, keys=ROPE.rotate(shown, entries.position)), places


def test_motion_of_one_patch_is_no_change() -> None:
    """The object is found again in the 3 × 3 patches around its old place, unlike patch by patch."""
    entries, places = moving()
    scores = make_method("otsu", recent=0).scores(entries)[0, 0]
    evs = make_method("evs").scores(entries)[0, 0]
    inside = torch.tensor(sorted(places))[1:-1]
    assert (scores[inside] < 4).all()
    assert (evs[inside] > 0.4).all()


def test_a_still_picture_leaves_only_the_last_frame_as_changed() -> None:
    """Otsu's threshold always finds an upper class; the limit on the cosine drops it."""
    entries = footage()
    still = replace(entries, keys=ROPE.rotate(entries.keys[:, :, :12].repeat(1, 1, 10, 1), entries.position))
    changed = make_method("otsu", recent=0).scores(still)[0, 0] >= 4
    assert changed.nonzero().flatten().tolist() == list(range(9 * 12, 10 * 12))


@pytest.mark.parametrize(("recent", "keep", "whole"), [(3, 80, 3), (8, 48, 2), (8, 96, 4), (8, 12, 1), (8, 11, 0)])
def test_recent_frames_are_whole_and_leave_half_of_the_budget(recent: int, keep: int, whole: int) -> None:
    entries = footage()
    last = entries.frame[0, 0] >= GRID.frames - whole
    apart = replace(entries, keys=torch.where(last[:, None], torch.ones_like(entries.keys), entries.keys))
    chosen = make_method("otsu", recent=recent).select(apart, keep)[0, 0]
    assert torch.bincount(chosen // 12, minlength=10)[10 - whole :].tolist() == [12] * whole
    assert keep < 12 or keep == 12 * whole or (chosen < 12 * (10 - whole)).any()


@pytest.mark.parametrize(("settings", "message"), [({"recent": -1}, "got -1"), ({"alike": 1.5}, "got 1.5")])
def test_wrong_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        make_method("otsu", **settings)
