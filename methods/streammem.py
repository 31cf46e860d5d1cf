"""Keep the entries that the chat template's tokens attend to, and a prototype of each new frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from kvpress_video.compressor import Compressor, Entries, Kept, top
from kvpress_video.errors import BudgetError

from ._attention import attention
from ._merging import averaged


@dataclass(frozen=True)
class StreamMem(Compressor):
    """Keep a prototype of each complete frame, and the entries that the probe attends to most.

    A prototype is the mean of its frame, weighted by the attention that each entry receives, with keys un-rotated
    before averaging and re-rotated at the mean position. It takes the slot and the tags of the frame's least attended
    entry. In later passes it competes by attention like any other entry, and incomplete frames get no prototype. If
    there are more frames than prototypes, the most attended frames get one.

    Attributes:
        probe: number of the prompt's last tokens whose attention counts, at least 1.
        prototypes: largest share of the budget for the prototypes of one pass, 0 to 1; 0 for none.
    """

    probe: int = 5
    prototypes: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset({"probe", "rope"})
    source: ClassVar[str] = "StreamMem, Yang et al. 2025, arXiv 2508.15717, without input frame filtering"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "attention"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise BudgetError(f"probe must be at least one token, got {self.probe}.")
        if not 0 <= self.prototypes <= 1:
            raise BudgetError(f"prototypes is a share of the budget between 0 and 1, got {self.prototypes}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by the attention of the probe, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: the queries of the probe were not captured.
        """
        return attention(entries, "streammem")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the slots of prototypes and of entries that stay: (batch, kv_heads, keep) int64, ascending."""
        scores = self.scores(entries)
        return _first_slots(scores, self._frames(entries, scores, keep), keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the selected entries, with the prototypes in their slots."""
        scores = self.scores(entries)
        frames = self._frames(entries, scores, keep)
        chosen = _first_slots(scores, frames, keep)
        if keep == len(entries) or not frames.slot.shape[-1]:
            return Kept(chosen)
        kept = entries.gather(chosen)
        prototypes = frames.prototypes(entries)
        place = torch.searchsorted(chosen, frames.slot)  # past the end for a frame that does not exist

        def put(states: Tensor, means: Tensor) -> Tensor:
            return pad(states, (0, 0, 0, 1)).scatter(2, place[..., None].expand_as(means), means)[:, :, :-1]

        merged = replace(
            kept,
            keys=put(kept.keys, prototypes.keys),
            values=put(kept.values, prototypes.values),
            places=put(kept.places, prototypes.places),
        )
        return Kept(chosen, merged)

    def _frames(self, entries: Entries, scores: Tensor, keep: int) -> Frames:
        """Choose the complete frames that get a prototype, the most attended first."""
        patches, length = entries.grid.patches, len(entries)
        most = min(int(self.prototypes * keep), length // patches)
        start = scores.new_zeros(*scores.shape[:2], 0, dtype=torch.long)
        complete = start.bool()
        if most:
            here = entries.frame[..., : length - patches + 1] == entries.frame[..., patches - 1 :]
            drawn = avg_pool1d(scores, patches, stride=1).masked_fill(~here, -1)
            start = drawn.argsort(dim=-1, descending=True, stable=True)[..., :most]
            complete = here.gather(-1, start)
        members = start[..., None] + torch.arange(patches, device=scores.device)
        weights = scores.gather(-1, members.flatten(2)).unflatten(2, (-1, patches)).clamp_min(1e-30)
        slot = torch.where(complete, start + weights.argmin(dim=-1), length)
        return Frames(members, weights / weights.sum(dim=-1, keepdim=True), slot)


class Frames(NamedTuple):
    """Frames that get a prototype, the same number in each row and head.

    Attributes:
        members: slots of the entries of each frame, (batch, kv_heads, frames, patches) int64.
        weights: weights of the entries in the prototype, (batch, kv_heads, frames, patches) fp32, with sum 1.
        slot: slot of the prototype, (batch, kv_heads, frames) int64; n for a frame that does not exist.
    """

    members: Tensor
    weights: Tensor
    slot: Tensor

    def prototypes(self, entries: Entries) -> Entries:
        """Compute the weighted mean of each frame."""
        first = torch.arange(self.members[0, 0].numel(), device=self.slot.device).view(self.members.shape[2:])[:, 0]

        def mean(states: Tensor) -> Tensor:
            by_frame = states.float().unflatten(2, self.members.shape[2:])
            return (self.weights[..., None] * by_frame).sum(dim=3)

        return averaged(entries.gather(self.members.flatten(2)), mean, first.expand(self.slot.shape))


def _first_slots(scores: Tensor, frames: Frames, keep: int) -> Tensor:
    """Select the slots of the prototypes, then the highest scores: (batch, kv_heads, keep) int64, ascending."""
    return top(pad(scores, (0, 1)).scatter(-1, frames.slot, torch.inf)[..., :-1], keep)
