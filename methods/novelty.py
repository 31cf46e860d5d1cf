"""Keep what differs from how its place usually looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kvpress_video.compressor import Compressor, Entries, top
from kvpress_video.errors import BudgetError, unknown_name

from ._directions import likeness, mean_frame, mean_of_patches

REFERENCES = ("patch", "global")


@dataclass(frozen=True)
class Novelty(Compressor):
    """Keep the entries whose keys differ most from the long-term mean.

    Score = −⟨K̂(h,t,j), μ(h,j)⟩ with K̂ = K / (‖K‖₂ + 1e-9) and μ(h,j) the normalised mean of K̂(h,t,j) over the cached
    frames t. Novelty alone loses what never changes: the last frame stays as well, within a share of the budget, its
    highest scores first.

    Attributes:
        reference: `"patch"`, the mean of the same patch; `"global"`, the mean of all entries, which a moving camera
            does not blur.
        last_frame: the most of the budget that the last frame may take before all else; 0 gives it no preference.
    """

    reference: str = "patch"
    last_frame: float = 0.25

    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            raise unknown_name("reference", self.reference, REFERENCES)
        if not 0 <= self.last_frame <= 1:
            raise BudgetError(f"last_frame is a share of the budget between 0 and 1, got {self.last_frame}.")

    def scores(self, entries: Entries) -> Tensor:
        """Unlikeness to the long-term mean, (batch, kv_heads, n) fp32; under `"patch"`, 0 throughout a single frame."""
        keys, patches = entries.keys, entries.grid.patches
        if entries.grid.frames == 1 and self.reference == "patch":
            return keys.new_zeros(keys.shape[:3], dtype=torch.float32)
        if self.reference == "global":
            return -likeness(keys, normalize(mean_frame(keys, 1), dim=-1))
        if entries.complete:
            return -likeness(keys, normalize(mean_frame(keys, patches), dim=-1))
        return -likeness(keys, normalize(mean_of_patches(entries), dim=-1), entries.patch.long())

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending."""
        scores = self.scores(entries)
        return top(prefer_last_frame(scores, scores, entries, int(self.last_frame * keep)), keep)


def prefer_last_frame(scores: Tensor, order: Tensor, entries: Entries, most: int) -> Tensor:
    """`scores` with up to `most` entries of the segment's last frame above all others, the highest in `order`."""
    last = entries.frame == entries.grid.frames - 1
    first_in_line = order.masked_fill(~last, -torch.inf).topk(min(most, len(entries)), dim=-1).indices
    raised = scores.scatter(-1, first_in_line, torch.inf)
    return torch.where(last, raised, scores)
