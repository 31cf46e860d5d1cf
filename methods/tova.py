"""Keep the entries that the last token attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries

from ._attention import attention


@dataclass(frozen=True)
class TOVA(Compressor):
    """Keep the entries that the last token of the pass attends to most, the same in all heads of a layer.

    score = softmax(q·k) of the last query, averaged over all query heads. The softmax runs over all keys, text
    included.
    """

    window: ClassVar[int] = 1

    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    source: ClassVar[str] = "TOVA, Oren et al. 2024, arXiv 2401.06104"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "attention"
    fidelity: ClassVar[str] = "mechanism"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by the last token's attention, averaged over all heads, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: no queries were captured.
        """
        mean = entries.context.spread.mean(attention(entries, "tova"))
        return mean.expand(entries.keys.shape[:3])
