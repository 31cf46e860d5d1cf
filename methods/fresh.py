"""Re-encode the newest frames with only text in context, combined with any method for older frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from kvpress_video.compressor import Compressor, Entries, Kept
from kvpress_video.errors import BudgetError

from ._frames import before_window
from ._wrapper import Wrapper


@dataclass(frozen=True)
class Fresh(Wrapper):
    """Keep the newest frames whole and re-encode them before a question; of older frames, keep the selection of a base.

    The newest min(n, ⌊keep / p⌋) frames of p patches stay whole, the base chooses the rest of the budget from the
    frames before them. Once the video ends (in a session, for as long as a question is answered), the keys and values
    of the newest frames are those of a pass over these frames alone, after the text before them.

    Attributes:
        base: the method for older frames, a name or an instance.
        n: how many frames, from 0.
    """

    base: Compressor | str = "infinipot-v"
    n: int = 4

    source: ClassVar[str] = "DSCache, arXiv 2605.01858; SimpleStream, arXiv 2604.02317"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 0:
            raise BudgetError(f"n must be a number of frames from 0, got {self.n}.")

    @property
    def fresh(self) -> int:
        """Return `n`."""
        return self.n

    def select(self, entries: Entries, keep: int) -> torch.Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        return self.reduce(entries, keep).slots

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the newest frames, and of the others the selection of the base."""
        window = min(self.n, keep // entries.grid.patches) * entries.grid.patches if self.n else 0
        if not window:
            return self._base.reduce(entries, keep)
        older = len(entries) - window
        newest = torch.arange(older, len(entries), device=entries.keys.device).expand(*entries.keys.shape[:2], -1)
        if keep == window:
            return Kept(newest)
        slots, merged, _ = self._base.reduce(before_window(entries.slice(0, older), window), keep - window)
        slots = torch.cat([slots, newest], dim=-1)
        if merged is None:
            return Kept(slots)
        end = entries.slice(older, len(entries))
        return Kept(slots, Entries.join([replace(merged, context=entries.context), end], dim=2))
