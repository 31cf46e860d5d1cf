"""Keep what a base method scores lowest: a control for its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries

from ._wrapper import ScoreWrapper


@dataclass(frozen=True)
class Reversed(ScoreWrapper):
    """Keep the entries with the lowest scores of a base method.

    A score that carries information is better than a random choice, and its reverse is worse. Budget preferences of the
    base, such as the recent frames that `tar` protects, do not apply: only its scores count.

    Attributes:
        base: method that scores the entries, a name or an instance; must implement `scores()`.
    """

    base: Compressor | str = "tar"

    source: ClassVar[str] = "ablation of InfiniPot-V, Kim et al. 2025, arXiv 2506.15745"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def scores(self, entries: Entries) -> Tensor:
        """Negate the base's scores, (batch, kv_heads, n)."""
        return -self._base.checked_scores(entries)
