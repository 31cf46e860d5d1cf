"""The highest scores, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import BudgetError, MethodError
from .results import rankable


def top(scores: Tensor, keep: int) -> Tensor:
    """Select the highest scores along the last dimension; of equal scores the earlier one is selected.

    Without sorting: the scores above the lowest selected one are taken, then as many equal to it as fit, in order.

    Args:
        scores: (..., n), floating point or integers. NaN ranks highest, as in a sort. Within a call of a method it
            raises an error on the CPU, and ranks lowest elsewhere, where checking for it would synchronise.
        keep: number of scores to select.

    Returns:
        Their indices, (..., keep) int64, ascending.

    Raises:
        BudgetError: there are fewer scores than `keep`.
        MethodError: complex or boolean scores, or NaN on the CPU within a call of a method.
    """
    length = scores.shape[-1]
    if not 0 <= keep <= length:
        raise BudgetError(f"cannot keep {keep} of {length} entries")
    if scores.is_complex() or scores.dtype == torch.bool:
        raise MethodError(f"scores are {scores.dtype}: real numbers are needed, e.g. scores.float().")
    if not keep:
        return scores.new_empty((*scores.shape[:-1], 0), dtype=torch.long)
    scores = rankable(scores)
    lowest = scores.topk(keep, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above, level = scores > lowest, scores == lowest
    room = keep - above.sum(dim=-1, keepdim=True)
    stays = above | (level & (level.cumsum(dim=-1, dtype=torch.int32) <= room))
    turn = torch.where(stays, stays.cumsum(dim=-1), 0)  # the first slot takes the indices that are not selected
    places = torch.arange(length, device=scores.device).expand_as(turn)
    return turn.new_empty((*turn.shape[:-1], keep + 1)).scatter_(-1, turn, places)[..., 1:].contiguous()
