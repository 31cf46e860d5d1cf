"""Keep the entries that stand out from the range of the entries that follow them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError
from kvpress_video.utils.blocks import iter_fp32_blocks

from ._ranks import rank

_FLAT = 1e-9  # the least range of a channel, so that a constant window divides by a number


@dataclass(frozen=True)
class LagKV(Compressor):
    """Keep the first entries, the newest ones, and of each window between those that differ from the window after it.

    The entries after the first `sinks` are divided into windows of `lag`. In each window but the last, keys and values
    are scaled channel by channel by the range of the next window, (x − min) / (max − min). The score of an entry is the
    softmax over its window of the standard deviation over channels, averaged over keys and values; what counts is its
    rank within the window, in units of 1/`lag`. Sinks and the entries from the last whole window on score 1 or more,
    the sinks first and then the newest.

    Attributes:
        sinks: number of first entries to keep, at least 0.
        lag: entries of a window, at least 1.
    """

    sinks: int = 4
    lag: int = 128

    source: ClassVar[str] = "LagKV, Liang et al. 2025, arXiv 2504.04704"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise BudgetError(f"sinks must not be negative, got {self.sinks}.")
        if self.lag < 1:
            raise BudgetError(f"lag must be at least 1 entry, got {self.lag}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their rank within their window, (batch, kv_heads, n) fp32."""
        length, shape = len(entries), entries.keys.shape[:2]
        sinks = min(self.sinks, length)
        windows = max(0, (length - sinks) // self.lag - 1)
        newest = length - sinks - windows * self.lag
        whole = slice(sinks, sinks + (windows + 1) * self.lag)
        keys, values = (self._spread(states[:, :, whole], windows) for states in (entries.keys, entries.values))
        place = rank(keys.softmax(dim=-1) + values.softmax(dim=-1))
        between = (self.lag - 1 - place).flatten(2) / self.lag
        first = between.new_full((*shape, sinks), 3.0)
        last = 1 + torch.arange(1, newest + 1, device=between.device) / max(newest, 1)
        return torch.cat([first, between, last.expand(*shape, -1)], dim=-1)

    def _spread(self, states: Tensor, windows: int) -> Tensor:
        """Compute the standard deviation over channels, scaled by the range of the next window.

        Args:
            states: keys or values of `windows` + 1 windows, (batch, kv_heads, (windows + 1)·lag, dim).
            windows: how many windows are scored, from 0.

        Returns:
            (batch, kv_heads, windows, lag) fp32.
        """
        found = states.new_empty((*states.shape[:2], windows, self.lag), dtype=torch.float32)
        if not windows:
            return found
        following = states.unflatten(2, (windows + 1, self.lag))[:, :, 1:]
        low, high = following.amin(dim=3, keepdim=True).float(), following.amax(dim=3, keepdim=True).float()
        scale = (high - low).clamp_min(_FLAT)
        for where, part in iter_fp32_blocks(states[:, :, : windows * self.lag], self.lag):
            some = slice(where.start // self.lag, where.stop // self.lag)
            scaled = part.unflatten(2, (-1, self.lag)).sub_(low[:, :, some]).div_(scale[:, :, some])
            found[:, :, some] = scaled.std(dim=-1)
        return found
