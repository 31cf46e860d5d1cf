"""Share the budget of a layer out over its KV heads by the scores of a base method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, top
from kvpress_video.errors import BudgetError, UnknownNameError

from ._ranks import rank
from ._wrapper import Wrapper, has_scores

_ONE_CALL = {"attention", "deeper"}
"""Inputs that cannot be divided by head."""


@dataclass(frozen=True)
class Ada(Wrapper):
    """AdaKV: give heads with high scores more of the layer's budget than others.

    With a budget of C entries per head, the H KV heads of a layer keep exactly H·C together: each head its best
    ⌊alpha·C⌋, and of all others those with the highest scores in any head. What a head does not keep is really freed.
    The scores of the heads are compared as they are, in fp32. If the selection of the base is the top of a ranking that
    depends on the budget, as that of `infinipot-v` is, this ranking counts.

    Attributes:
        base: method that scores the entries, a name or an instance. One that averages over heads gives all heads the
            same scores and budgets.
        alpha: fraction of the budget reserved for each head, 0 to 1; 1 for the selection of the base.
    """

    alpha: float = 0.2

    uneven: ClassVar[bool] = True
    source: ClassVar[str] = "AdaKV, Feng et al. 2024, arXiv 2407.11550"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self._base).__name__
        if not has_scores(self._base) and type(self._base).ranking is Compressor.ranking:
            raise UnknownNameError(
                f"{name} cannot be the base of Ada: that takes one score per entry. Choose a base such as 'snapkv', "
                "'van' or 'infinipot-v'."
            )
        if divided := sorted(self._base.needs & _ONE_CALL):
            raise UnknownNameError(
                f"{name} cannot be the base of Ada: it needs {' and '.join(divided)} of all heads in one call, and "
                "heads with different numbers of entries are scored one by one. Choose a base such as 'snapkv'."
            )
        if not 0 <= self.alpha <= 1:
            raise BudgetError(f"alpha is a share of the budget between 0 and 1, got {self.alpha}.")

    def select_uneven(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay in all heads together, (batch, kv_heads, n) bool, `keep * kv_heads` a row."""
        held = entries.index >= 0
        scores = self._ranking(entries, keep)
        absent = (~held).long()
        own = held & (rank(scores, absent) < int(self.alpha * keep))
        joint = rank(scores.flatten(1)[:, None], absent.flatten(1)[:, None])[:, 0]
        turn = (own.long() + held).flatten(1)
        chosen = top(turn * joint.shape[1] - joint, keep * held.shape[1])
        return torch.zeros_like(turn, dtype=torch.bool).scatter(1, chosen, True).view_as(held)

    def _ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank the entries with the base: those of all heads together or, where heads hold different numbers, head by
        head, (batch, kv_heads, n) fp32; 0 for padding.
        """
        length = len(entries)
        scores = entries.keys.new_zeros(entries.keys.shape[:3], dtype=torch.float32)
        for row, heads in enumerate(entries.by_head()):
            longest = max(map(len, heads))
            if longest == min(map(len, heads)):
                together = entries.rows([row]).slice(length - longest, length)
                scores[row, :, length - longest :] = self._base.ranking(together, min(keep, longest))[0]
                continue
            for number, head in enumerate(heads):
                if len(head):
                    scores[row, number, length - len(head) :] = self._base.ranking(head, min(keep, len(head)))[0, 0]
        return scores
