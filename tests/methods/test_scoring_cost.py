"""Methods do no more work than their choice needs, counted in entries and operations, and choose the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kvpress_video.methods import _directions as directions
from kvpress_video.methods import tar as module
from kvpress_video.methods.tar import TaR
from operations import Operations

from kvpress_video.compressor import top
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, footage, thinned

SHARES = [0.05, 0.2, 0.5, 0.9]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("settings", [{}, {"recent_ratio": 0.5}, {"entries": "official"}], ids=str)
def test_tar_scores_past_frames_alone(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], share: float) -> None:
    scored: list[int] = []
    stock = module.likeness

    def noted(keys: torch.Tensor, *rest: Any) -> torch.Tensor:
        scored.append(keys.shape[2])
        return stock(keys, *rest)

    method, entries = TaR(**settings), footage(batch=2)
    keep, patches = int(share * len(entries)), GRID.patches
    protected = max(1, int(GRID.frames * method.recent_ratio)) * patches
    if method.entries == "tracked":
        protected = min(protected, 2 * keep // 3)
    elif protected > keep:
        protected = min(keep // patches, max(1, keep // 2 // patches)) * patches
    last = torch.arange(len(entries)) >= len(entries) - protected
    wanted = top(method.scores(entries).masked_fill(last, torch.inf), keep)
    monkeypatch.setattr(module, "likeness", noted)
    assert torch.equal(method.select(entries, keep), wanted)
    assert scored == [-(-(len(entries) - protected) // patches) * patches]  # in whole frames


@pytest.mark.parametrize("method", ["tar", "infinipot-v", "novelty"])
def test_references_of_survivors_are_copied_by_rows(method: str) -> None:
    """Looking up every number of a reference by itself takes most of the time of a later pass."""
    entries, made = thinned(footage(batch=2), frames=6, keep=40), make_method(method)
    with Operations() as done:
        made.scores(entries) if method != "infinipot-v" else made.select(entries, 50)
    assert done.counts["index_select"]
    assert not done.counts["gather"]


def test_a_row_of_a_reference_belongs_to_its_patch_in_its_head() -> None:
    entries = thinned(footage(batch=2), frames=6, keep=40)
    reference = torch.randn(2, 2, GRID.patches, entries.keys.shape[-1])
    found = directions.likeness(entries.keys, reference, entries.patch.long())
    where = entries.patch.long()[..., None].expand_as(entries.keys)
    lengths = entries.keys.norm(dim=-1) + 1e-9
    torch.testing.assert_close(found, (entries.keys * reference.gather(2, where)).sum(dim=-1) / lengths)
