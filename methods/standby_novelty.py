"""Keep the entries that are important or novel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries

from .novelty import Novelty, prefer_last_frame
from .standby import Standby


@dataclass(frozen=True)
class StandbyNovelty(Compressor):
    """Keep the entries that are important to the vision tower, differ from the rest of the video, or both.

    score = z(log standby importance) + z(novelty), where z standardises each head's scores over the entries of the
    segment. Entries of the last frame are preferred up to a share of the budget, the most important ones first.

    Attributes:
        n: see `Standby`.
        tokens: see `Standby`.
        reference: see `Novelty`.
        last_frame: see `Novelty`.
    """

    n: int = 8
    tokens: Tensor | None = None
    reference: str = "patch"
    last_frame: float = 0.25

    needs: ClassVar[frozenset[str]] = Standby.needs
    source: ClassVar[str] = "this project"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "mixture"
    fidelity: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", Standby(self.n, self.tokens).n)
        Novelty(self.reference, self.last_frame)  # invalid settings fail here rather than at the first frame

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by z(log importance) + z(novelty), (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: importance was not captured.
        """
        importance = Standby(self.n, self.tokens).scores(entries)
        novelty = Novelty(self.reference).scores(entries)
        return _z(importance.clamp_min(1e-12).log()) + _z(novelty)

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank the preferred entries of the last frame first, and then by score, (batch, kv_heads, n) fp32."""
        most = int(self.last_frame * keep)
        return prefer_last_frame(self.scores(entries), entries.importance, entries, most)

    def describe(self) -> dict[str, object]:
        """Return the settings, with the shape of learned tokens in place of their values."""
        return {**Standby(self.n, self.tokens).describe(), **Novelty(self.reference, self.last_frame).describe()}


def _z(scores: Tensor) -> Tensor:
    """Standardise scores along the last dimension; 0 if all are equal."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True).sqrt() + 1e-6)
