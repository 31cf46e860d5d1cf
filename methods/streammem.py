"""Keep what the chat template's tokens attend to, and of each new frame one mean."""

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

    A prototype is the mean of its frame, weighted by the attention that its entries draw: keys are un-rotated,
    averaged and rotated again at the mean of their positions. It takes the slot, and with it the tags, of the frame's
    least attended entry. In later passes it competes by attention like any other entry; frames that are no longer
    complete get no second one. Where the prototypes are more than their share, the most attended frames come first.

    Attributes:
        probe: how many of the prompt's last tokens look.
        prototypes: the most of the budget that the prototypes of one pass may take; 0 makes none.
    """

    probe: int = 5
    prototypes: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset({"probe", "rope"})
    source: ClassVar[str] = "StreamMem, Yang et al. 2025, arXiv 2508.15717, without input frame filtering"

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise BudgetError(f"probe must be at least one token, got {self.probe}.")
        if not 0 <= self.prototypes <= 1:
            raise BudgetError(f"prototypes is a share of the budget between 0 and 1, got {self.prototypes}.")

    def scores(self, entries: Entries) -> Tensor:
        """Attention, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: the probe's queries were not captured.
        """
        return attention(entries, "streammem")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries, or prototypes in their slots, stay: (batch, kv_heads, keep) int64, ascending."""
        scores = self.scores(entries)
        return _first_slots(scores, self._frames(entries, scores, keep), keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """The entries that stay, with the prototypes in their slots."""
        scores = self.scores(entries)
        frames = self._frames(entries, scores, keep)
        chosen = _first_slots(scores, frames, keep)
        if keep == len(entries) or not frames.slot.shape[-1]:
            return Kept(chosen)
        kept = entries.gather(chosen)
        prototypes = frames.prototypes(entries)
        place = torch.searchsorted(chosen, frames.slot)  # behind the last where there is no such frame

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
        """The complete frames that get a prototype, the most attended first."""
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
    """Frames, as many in each row and head.

    Attributes:
        members: their entries, (batch, kv_heads, frames, patches) int64.
        weights: what each counts in the prototype, the same shape, fp32; they add up to 1.
        slot: the entry in whose slot the prototype goes, (batch, kv_heads, frames); n for a frame that is not there.
    """

    members: Tensor
    weights: Tensor
    slot: Tensor

    def prototypes(self, entries: Entries) -> Entries:
        """The weighted mean of each frame."""
        first = torch.arange(self.members[0, 0].numel(), device=self.slot.device).view(self.members.shape[2:])[:, 0]

        def mean(states: Tensor) -> Tensor:
            by_frame = states.float().unflatten(2, self.members.shape[2:])
            return (self.weights[..., None] * by_frame).sum(dim=3)

        return averaged(entries.gather(self.members.flatten(2)), mean, first.expand(self.slot.shape))


def _first_slots(scores: Tensor, frames: Frames, keep: int) -> Tensor:
    """Slots of the prototypes, then the highest scores: (batch, kv_heads, keep) int64, ascending."""
    return top(pad(scores, (0, 1)).scatter(-1, frames.slot, torch.inf)[..., :-1], keep)
