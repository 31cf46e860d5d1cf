"""Keep what the vision tower's attention finds important."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError, MissingInputError


@dataclass(frozen=True)
class Standby(Compressor):
    """Keep the entries whose patches draw most of the attention of a few standby queries in the vision tower.

    importance(token) = mean over heads and over n standby queries of softmax(q·k / √d) within the frame, in the last
    vision block with full attention, summed over the patches that make the token. Without training, the standby
    queries are the means of the block's patch queries over n uniform grid cells. It is the same in every layer and
    head, and it is captured without touching the patch features.

    Attributes:
        n: standby queries per frame.
        tokens: learned standby tokens, (n, vision width), read instead of the surrogates; their number sets `n`.
    """

    n: int = 8
    tokens: Tensor | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after POINTS-Long, arXiv 2604.11627; the training-free surrogate is ours"

    def __post_init__(self) -> None:
        if self.tokens is not None:
            if self.tokens.ndim != 2:
                raise BudgetError(f"tokens must be (n, vision width), got {tuple(self.tokens.shape)}.")
            object.__setattr__(self, "n", self.tokens.shape[0])
        if self.n < 1:
            raise BudgetError(f"n must be at least one standby query per frame, got {self.n}.")

    def scores(self, entries: Entries) -> Tensor:
        """Importance, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: it was not captured.
        """
        # The same tokens come by in every layer: looking at the first keeps the other layers free of a device sync.
        if entries.context.layer == 0 and entries.importance.isnan().any():
            raise MissingInputError(
                "Some entries have no vision-attention importance: the vision tower must run inside compress(), "
                "or importance=… be given."
            )
        return entries.importance

    def describe(self) -> dict[str, object]:
        """The settings; of learned tokens their shape."""
        return {"n": self.n, "tokens": None if self.tokens is None else list(self.tokens.shape)}
