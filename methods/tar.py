"""Keep the entries that differ from the recent frames at the same patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, top
from kvpress_video.errors import BudgetError

from ._directions import likeness, mean_frame, mean_of_patches
from ._survivors import check_treatment, pseudo_frames


@dataclass(frozen=True)
class TaR(Compressor):
    """Temporal-axis redundancy: keep the last r frames, and the other entries that are least like them.

    score(h,t,j) = −⟨K̂(h,t,j), mean of K̂(h,t',j) over the last r frames t'⟩ for frame t, patch j and head h, where
    K̂ = K / (‖K‖₂ + 1e-9) of the cached keys and r = max(1, ⌊f·recent_ratio⌋) of f cached frames (n/p if survivors do
    not fill whole frames). The last r frames are protected, within the budget. Of frames that would take more than two
    thirds of it only the newest entries, two thirds of it, are protected, so that every budget leaves room for a
    selection; all r frames remain the reference.

    Attributes:
        recent_ratio: ρ, the share of the cached frames that count as recent, 0 to 1 (released code .25, paper .125).
        entries: treatment of survivors of earlier passes: `"tracked"` compares each one with its true patch in the
            actual last frames; `"official"` treats them as whole frames in order, as the released code does, and
            protects the last r frames even if they are the whole budget; if they exceed it, the newest whole frames
            that fit into half of it, at least one if one fits.
    """

    recent_ratio: float = 0.25
    entries: str = "tracked"

    source: ClassVar[str] = "InfiniPot-V, Kim et al. 2025, arXiv 2506.15745 (TaR)"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        if not 0 <= self.recent_ratio <= 1:
            raise BudgetError(f"recent_ratio is a share between 0 and 1, got {self.recent_ratio}.")
        check_treatment(self.entries)

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their difference from the recent frames, (batch, kv_heads, n) fp32.

        A patch without a recent entry scores 0. So does every entry of a single frame (an image), whose first entries
        stay.

        Raises:
            BudgetError: the entries do not fill whole frames under `entries="official"`.
        """
        if self._whole_frames(entries):
            return self._scores_of_first(entries, len(entries))
        if entries.grid.frames == 1:
            return entries.keys.new_zeros(entries.keys.shape[:3], dtype=torch.float32)
        recent = self._recent_frames(entries)
        newest = entries.slice(max(0, len(entries) - recent * entries.grid.patches), len(entries))
        reference = mean_of_patches(newest, newest.frame >= entries.grid.frames - recent)
        return -likeness(entries.keys, reference, entries.patch.long())

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        past = len(entries) - self._protected(entries, keep)
        slots = torch.arange(len(entries), device=entries.keys.device)
        if not self._whole_frames(entries):
            recent = entries.frame >= entries.grid.frames - self._recent_frames(entries)
            return top(self.scores(entries).masked_fill(recent & (slots >= past), torch.inf), keep)
        chosen = top(self._scores_of_first(entries, past), keep - len(entries) + past)
        return torch.cat([chosen, slots[past:].expand(*chosen.shape[:2], -1)], dim=-1)

    def _protected(self, entries: Entries, keep: int) -> int:
        """Return how many of the newest entries are protected if they belong to the recent frames."""
        patches = entries.grid.patches
        recent = self._recent_frames(entries) * patches
        if self.entries == "tracked":
            return min(recent, 2 * keep // 3)
        return recent if recent <= keep else min(keep // patches, max(1, keep // 2 // patches)) * patches

    def _scores_of_first(self, entries: Entries, count: int) -> Tensor:
        """Score the first `count` entries of whole frames."""
        patches = len(entries) // pseudo_frames(entries)
        keys = entries.keys[:, :, : -(-count // patches) * patches]
        if entries.grid.frames == 1:
            return keys.new_zeros((*keys.shape[:2], count), dtype=torch.float32)
        recent = self._recent_frames(entries) * patches
        return -likeness(keys, mean_frame(entries.keys[:, :, -recent:], patches))[:, :, :count]

    def _recent_frames(self, entries: Entries) -> int:
        return max(1, int(len(entries) / entries.grid.patches * self.recent_ratio))

    def _whole_frames(self, entries: Entries) -> bool:
        return entries.complete or self.entries == "official"
