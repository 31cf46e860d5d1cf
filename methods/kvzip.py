"""Keep the entries that the frames attend to in a second pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._attention import strongest_attention


@dataclass(frozen=True)
class KVzip(Compressor):
    """Keep the entries that the frames of a chunk attend to most in a second pass.

    After each chunk the last `probe` tokens of the prompt and then the chunk's own frames are read again, at the
    positions that follow. score = the largest softmax(q·k) of any of these queries, over the query heads that share a
    KV head. The softmax runs over all keys, those of the repetition included.

    Attributes:
        probe: number of the prompt's last tokens before the repetition, at least 1.
    """

    probe: int = 5

    needs: ClassVar[frozenset[str]] = frozenset({"probe", "reconstruction"})
    source: ClassVar[str] = "KVzip, Kim et al. 2025, arXiv 2505.23416, chunk by chunk and without an instruction"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "attention"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.probe < 1:
            raise BudgetError(f"probe must be at least one token, got {self.probe}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by the strongest attention of the repetition, (batch, kv_heads, n) fp32.

        Raises:
            MissingInputError: no queries were captured.
        """
        return strongest_attention(entries, "kvzip")
