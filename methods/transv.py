"""Drop visual tokens after a layer, and let the text read the evicted entries of that layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept, OneVote
from kvpress_video.errors import BudgetError

from ._skipping import Skipping


@dataclass(frozen=True)
class TransV(Skipping):
    """Token transfer: only part of the visual tokens continue after a layer, and text reads its evicted entries once.

    The router selects the tokens that continue in `layer`. `layer` and each later layer get `keep` times the budget of
    an earlier one. Text after the video adds tanh(`alpha`) times the attention of `layer` over its evicted entries to
    the attention over the kept ones. Within its budget, any other layer keeps the selection of the base. With the
    largest budget, the layers before `layer` keep everything.

    Attributes:
        base: method that evicts from the cache before and after the layer, a name or an instance.
        keep: fraction of the visual tokens that continue, rounded up; above 0, at most 1.
        router: method that scores the tokens, a name or an instance.
        layer: the layer, from 0; another must follow.
        alpha: tanh(alpha) is the weight of the evicted entries; 0 for none, as before training.
    """

    keep: float = 0.5
    router: Compressor | str = "random"
    layer: int = 1
    alpha: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    source: ClassVar[str] = (
        "after TimeViper (TransV), 2025, arXiv 2511.16595; attention of the model's own layer is ours"
    )
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layer, int) or self.layer < 0:
            raise BudgetError(f"layer must be the index of a layer, from 0, got {self.layer!r}.")
        if not math.isfinite(self.alpha):
            raise BudgetError(f"alpha must be a finite number, got {self.alpha}.")

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Reduce the entries with the base; in `layer`, to the tokens that continue."""
        if entries.context.layer == self.layer:
            return OneVote(self._router).reduce(entries, keep)
        return self._base.reduce(entries, keep)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        return self.reduce(entries, keep).slots

    def skipped(self, layers: int) -> range:
        """Return the layers after `layer`.

        Raises:
            BudgetError: there are none.
        """
        if self.layer >= layers - 1:
            raise BudgetError(f"layer={self.layer} leaves none of {layers} layers after it: choose an earlier one.")
        return range(self.layer + 1, layers)

    def thin(self, layers: int) -> range:
        """Return `layer` and the layers after it."""
        return range(self.layer, layers)

    def transfer(self, layer: int, layers: int) -> float | None:
        """Return tanh(alpha) for `layer`, None for others."""
        return math.tanh(self.alpha) if layer == self.layer else None
