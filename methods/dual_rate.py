"""Let any method score the video at a lower frame rate than it selects from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept
from kvpress_video.errors import BudgetError

from ._wrapper import Wrapper


@dataclass(frozen=True)
class DualRate(Wrapper):
    """Run any method on states that are refreshed only every q-th frame.

    To the base, an entry of frame t has the key, value, position and importance of the entry at the same patch of frame
    q·⌊t / q⌋, as long as that one is cached. The kept entry is the original one. With q = 1, the selection is that of
    the base.

    Attributes:
        base: the method to run, a name or an instance; one that merges entries is an error.
        q: frames from one refresh to the next, at least 1.
    """

    base: Compressor | str = "infinipot-v"
    q: int = 2

    source: ClassVar[str] = "analogy to the two rates of DUST, arXiv 2510.27607; ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.q < 1:
            raise BudgetError(f"q must be at least 1 frame, got {self.q}.")
        if type(self._base).reduce is not Compressor.reduce:
            raise BudgetError(
                f"{type(self._base).__name__} merges entries, which must not be done with held states: choose a base "
                "that selects, such as 'infinipot-v'."
            )

    def scores(self, entries: Entries) -> Tensor:
        """Return the scores of the base on held states, (batch, kv_heads, n)."""
        return self._base.scores(self._held(entries))

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Return the selection of the base on held states, (batch, kv_heads, keep) int64, ascending."""
        return self._base.select(self._held(entries), keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the selection; nothing is merged."""
        return Kept(self.select(entries, keep))

    def _held(self, entries: Entries) -> Entries:
        """Return the entries with the states of the last refresh."""
        patches, patch, frame = entries.grid.patches, entries.patch.long(), entries.frame.long()
        own = torch.arange(len(entries), device=frame.device).expand_as(frame)
        slots = torch.full((*frame.shape[:2], entries.grid.tokens), -1, device=frame.device)
        slots = slots.scatter(2, frame * patches + patch, own)
        refreshed = slots.gather(2, (frame - frame % self.q) * patches + patch)
        held = torch.where(refreshed < 0, own, refreshed)
        return replace(entries.gather(held), tags=entries.tags)
