"""Keep the entries that the last queries of the prefill attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import avg_pool1d

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._attention import attention


@dataclass(frozen=True)
class SnapKV(Compressor):
    """Keep the entries that the last `window` queries attend to most, smoothed over neighbours.

    score = pool(mean of softmax(q·k) over the queries of the window and the query heads that share a KV head). The
    softmax runs over all keys visible to the query, text included: its normaliser is captured with the queries.

    Attributes:
        window: number of last queries, at least 1.
        kernel: width of the average pooling over the sequence, in entries, odd; 1 for none.
    """

    window: int = 32
    kernel: int = 5

    needs: ClassVar[frozenset[str]] = frozenset({"queries"})
    source: ClassVar[str] = "SnapKV, Li et al. 2024, arXiv 2404.14469"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "attention"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise BudgetError(f"window must be at least one query, got {self.window}.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise BudgetError(f"kernel must be odd and at least 1, so that it has a middle, got {self.kernel}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by pooled attention, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: no queries were captured.
        """
        return avg_pool1d(attention(entries, "snapkv"), self.kernel, stride=1, padding=self.kernel // 2)
