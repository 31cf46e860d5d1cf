"""Evict visual entries from the last layers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept
from kvpress_video.errors import BudgetError

from ._shares import portion
from ._wrapper import Wrapper


@dataclass(frozen=True)
class VflDrop(Wrapper):
    """Keep a few visual entries in the last n layers, and the selection of any method in the layers before them.

    The last n layers keep entries from the start and the end of a segment, half each. The earlier layers get their
    unused budget, so that all layers together keep exactly `keep * layers`. With the largest budget, the earlier layers
    keep everything.

    Attributes:
        base: method of the layers before the last n, a name or an instance.
        n: number of last layers, at least 1.
        left: entries that each of them keeps of all videos and images, at least 1, including frame labels; if labels
            are kept, there must be room for one label and an entry of its frame.
    """

    base: Compressor | str = "infinipot-v"
    n: int = 1
    left: int = 2

    source: ClassVar[str] = "Vision Function Layers, 2025, arXiv 2509.24791 (dropping)"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("n", self.n), ("left", self.left)):
            if value < 1:
                raise BudgetError(f"{name} must be at least 1, got {value}.")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        return self.reduce(entries, keep).slots

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Reduce the entries with the base, or to the first and last ones in the last layers."""
        if entries.context.layer < entries.context.layers - self.n:
            return self._base.reduce(entries, keep)
        slots = torch.arange(len(entries), device=entries.keys.device)
        newest = keep // 2
        ends = torch.cat([slots[: keep - newest], slots[len(entries) - newest :]])
        return Kept(ends.expand(*entries.keys.shape[:2], -1))

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of a layer; the budgets of all layers sum to `keep * layers`.

        Raises:
            BudgetError: the model has no more than n layers.
        """
        if self.n >= layers:
            raise BudgetError(f"n={self.n} leaves none of {layers} layers to keep visual entries: choose a smaller n.")
        left = min(self.left, keep)
        if layer >= layers - self.n:
            return left
        others = layers - self.n
        return portion(keep * layers - left * self.n, [Fraction(1)] * others, layer)
