"""EVS against its formula, and what it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain_heads import PlainHead, best, expected

from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, ROPE, footage, thinned


def evs(head: PlainHead) -> list[float]:
    scores = []
    for i in range(head.n):
        earlier = [j for j in range(i) if head.patch[j] == head.patch[i]]
        scores.append(1 - float(head.units[i] @ head.units[earlier[-1]]) if earlier else float("inf"))
    return scores


@pytest.mark.parametrize("entries", [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 8, 40)])
@pytest.mark.parametrize("keep", [3, 12, 36, 61])
def test_evs(entries: Entries, keep: int) -> None:
    assert make_method("evs").select(entries, keep).tolist() == expected(entries, lambda head: best(evs(head), keep))


def still(changes: list[tuple[int, int]]) -> Entries:
    """A still picture, rotated to its positions, but for another content of some (frame, patch)."""
    entries = footage()
    shown = entries.keys[:, :, : GRID.patches].repeat(1, 1, GRID.frames, 1)
    for frame, patch in changes:
        shown[:, :, frame * GRID.patches + patch] *= -1
    return replace(entries, keys=ROPE.rotate(shown, entries.position))


def test_of_a_still_picture_the_first_frame_and_the_changes_stay() -> None:
    """A patch that changes for one frame counts twice: when it comes and when it goes."""
    kept = make_method("evs").select(still([(4, 7), (8, 2)]), GRID.patches + 4)[0, 0].tolist()
    assert kept == [*range(GRID.patches), 4 * 12 + 7, 5 * 12 + 7, 8 * 12 + 2, 9 * 12 + 2]


def test_before_prefill_embeddings_are_compared_as_they_are() -> None:
    entries = still([(4, 7)])
    embeddings = replace(entries, keys=ROPE.rotate(entries.keys, -entries.position))
    embeddings = replace(embeddings, context=replace(entries.context, rope=None))
    in_cache, before = make_method("evs").scores(entries), make_method("evs").scores(embeddings)
    torch.testing.assert_close(in_cache, before, rtol=0, atol=1e-5)
