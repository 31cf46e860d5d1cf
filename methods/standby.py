"""Keep the entries that receive the most attention in the vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError, MissingInputError


@dataclass(frozen=True)
class Standby(Compressor):
    """Keep the entries whose patches receive most of the attention of a few standby queries in the vision tower.

    importance(token) = mean of softmax(q·k / √d) within the frame over heads and n standby queries, in the last vision
    block with full attention, summed over the patches merged into the token. Without training, the standby queries are
    means of the block's patch queries over the cells of a uniform grid. Importance is the same in all layers and heads,
    and capturing it leaves the patch features unchanged.

    Attributes:
        n: number of standby queries per frame, at least 1.
        tokens: learned standby tokens, (n, vision width), used instead of the surrogate queries; they determine `n`.
    """

    n: int = 8
    tokens: Tensor | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"vision_attention"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after POINTS-Long, arXiv 2604.11627; the training-free surrogate is ours"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "saliency"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        if self.tokens is not None:
            if self.tokens.ndim != 2:
                raise BudgetError(f"tokens must be (n, vision width), got {tuple(self.tokens.shape)}.")
            object.__setattr__(self, "n", self.tokens.shape[0])
        if self.n < 1:
            raise BudgetError(f"n must be at least one standby query per frame, got {self.n}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by importance, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: importance was not captured.
        """
        # All layers hold the same tokens: only the first one reads a flag back from the device.
        if entries.context.layer == 0 and entries.importance.isnan().any():
            raise MissingInputError(
                "Some entries have no vision-attention importance: run the vision tower inside compress(), or pass "
                "importance=… to select()."
            )
        return entries.importance

    def describe(self) -> dict[str, object]:
        """Return the settings, with the shape of learned tokens in place of their values."""
        return {"n": self.n, "tokens": None if self.tokens is None else list(self.tokens.shape)}
