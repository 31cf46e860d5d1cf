"""Keep the entries that differ from the long-term appearance of their patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError, unknown_name

from ._directions import likeness, mean_frame, mean_of_patches

REFERENCES = ("patch", "global")


@dataclass(frozen=True)
class Novelty(Compressor):
    """Keep the entries whose keys differ most from the long-term mean.

    score = −⟨K̂(h,t,j), μ(h,j)⟩, where K̂ = K / (‖K‖₂ + 1e-9) and μ(h,j) is the normalised mean of K̂(h,t,j) over the
    cached frames t. Static content scores low, so entries of the last frame are preferred up to a share of the budget,
    the highest scores first.

    Attributes:
        reference: `"patch"`, the mean of the same patch, or `"global"`, the mean of all entries, which camera motion
            does not blur.
        last_frame: largest share of the budget for preferred entries of the last frame, 0 to 1; 0 for no preference.
    """

    reference: str = "patch"
    last_frame: float = 0.25

    source: ClassVar[str] = "this project"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            raise unknown_name("reference", self.reference, REFERENCES)
        if not 0 <= self.last_frame <= 1:
            raise BudgetError(f"last_frame is a share of the budget between 0 and 1, got {self.last_frame}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by distance from the mean, (batch, kv_heads, n) fp32; 0 in a single frame under `"patch"`."""
        keys, patches = entries.keys, entries.grid.patches
        if entries.grid.frames == 1 and self.reference == "patch":
            return keys.new_zeros(keys.shape[:3], dtype=torch.float32)
        if self.reference == "global":
            return -likeness(keys, normalize(mean_frame(keys, 1), dim=-1))
        if entries.complete:
            return -likeness(keys, normalize(mean_frame(keys, patches), dim=-1))
        return -likeness(keys, normalize(mean_of_patches(entries), dim=-1), entries.patch.long())

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank the preferred entries of the last frame first, and then by score, (batch, kv_heads, n) fp32."""
        scores = self.scores(entries)
        return prefer_last_frame(scores, scores, entries, int(self.last_frame * keep))


def prefer_last_frame(scores: Tensor, order: Tensor, entries: Entries, most: int) -> Tensor:
    """Raise up to `most` entries of the segment's last frame, the highest in `order`, to a score of +inf.

    Args:
        scores: (batch, kv_heads, n) fp32.
        order: preference among the entries of the last frame, (batch, kv_heads, n) fp32.
        entries: the scored entries.
        most: number of entries to raise; fewer if the last frame has fewer.
    """
    last = entries.frame == entries.grid.frames - 1
    first_in_line = order.masked_fill(~last, -torch.inf).topk(min(most, len(entries)), dim=-1).indices
    raised = scores.scatter(-1, first_in_line, torch.inf)
    return torch.where(last, raised, scores)
