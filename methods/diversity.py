"""Keep the entries that are least like all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries

from ._directions import directions
from ._rotation import unrotated


@dataclass(frozen=True)
class Diversity(Compressor):
    """Keep the entries with the lowest redundancy, the mean cosine with every other cached entry of the head.

    score(i) = −(⟨u(i), Σu⟩ − 1) / (n − 1), where u = K̂ of the centred keys K − mean(K), un-rotated. Without centring,
    an offset that all keys share would make every entry look redundant; with it, the score does not depend on it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after LaVer, arXiv 2512.06281; leave-one-out redundancy of centred keys is ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "analogy"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their redundancy, negated, (batch, kv_heads, n) fp32."""
        keys = unrotated(entries)
        unit = directions(keys - keys.mean(dim=2, keepdim=True))
        alike = (unit @ unit.sum(dim=2)[..., None])[..., 0]
        return (1 - alike) / max(len(entries) - 1, 1)
