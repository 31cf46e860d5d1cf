"""Keep what is important or new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, top

from .novelty import Novelty, prefer_last_frame
from .standby import Standby


@dataclass(frozen=True)
class StandbyNovelty(Compressor):
    """Keep the entries that the vision tower finds important, that look unlike the rest of the video, or both.

    Score = z(log standby importance) + z(novelty), z per head over the segment's entries. The last frame stays as
    well, within a share of the budget, its most important patches first.

    Attributes:
        n, tokens: see `Standby`.
        reference, last_frame: see `Novelty`.
    """

    n: int = 8
    tokens: Tensor | None = None
    reference: str = "patch"
    last_frame: float = 0.25

    needs: ClassVar[frozenset[str]] = Standby.needs
    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", Standby(self.n, self.tokens).n)
        Novelty(self.reference, self.last_frame)  # wrong settings fail now, not at the first frame

    def scores(self, entries: Entries) -> Tensor:
        """z(log importance) + z(novelty), (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: importance was not captured.
        """
        importance = Standby(self.n, self.tokens).scores(entries)
        novelty = Novelty(self.reference).scores(entries)
        return _z(importance.clamp_min(1e-12).log()) + _z(novelty)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending."""
        most = int(self.last_frame * keep)
        return top(prefer_last_frame(self.scores(entries), entries.importance, entries, most), keep)

    def describe(self) -> dict[str, object]:
        """The settings; of learned tokens their shape."""
        return {**Standby(self.n, self.tokens).describe(), **Novelty(self.reference, self.last_frame).describe()}


def _z(scores: Tensor) -> Tensor:
    """Scores in standard deviations from their mean, along the last dimension; 0 where all are equal."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True).sqrt() + 1e-6)
