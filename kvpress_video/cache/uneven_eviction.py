"""Eviction plans for layers whose heads may hold different numbers of entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..compressor.base import Compressor
from ..compressor.entries import Entries, Kind, is_visual
from ..compressor.results import MethodCall
from .allocation import Share, Shares
from .eviction import label_ranges
from .forward_pass import RowState


@dataclass(frozen=True)
class UnevenPlan:
    """Entries that stay in a layer.

    Attributes:
        stays: mask of these entries, (batch, heads, n) bool.
        rows: state of each row afterwards.
    """

    stays: Tensor
    rows: Sequence[RowState]


def plan_uneven_eviction(
    entries: Entries, rows: Sequence[RowState], length: int, keep: Shares, method: Compressor
) -> UnevenPlan:
    """Select the entries that stay jointly over the heads of a layer: of each segment exactly the sum of their shares.

    Text stays, and so do the labels that a share names; padding does not.

    Args:
        entries: everything the layer holds, (batch, heads, n, …), with padding in front of heads that hold fewer.
        rows: state of each row; it counts averages over heads.
        length: entries of a row per head, on average, padding of the row included.
        keep: per row, entries to keep of each segment, per head on average.
        method: the method.

    Raises:
        MethodError, BudgetError: the method failed or returned an unusable result, see `MethodCall.reduce_uneven`.
    """
    stays = (entries.kind == Kind.TEXT) & (entries.index >= 0)
    for number, (row, share) in enumerate(zip(rows, keep, strict=True)):
        stays[number] |= _staying(entries.rows([number]), row, share, method)[0]
    lengths = [
        row.text(length) + sum(mine.entries for mine in share.values()) for row, share in zip(rows, keep, strict=True)
    ]
    after = [
        replace(
            row,
            padding=max(lengths) - mine,
            held={segment: left.visual for segment, left in share.items()},
            labels={segment: left.labels for segment, left in share.items() if left.labels},
            starts={},
            loose=False,
        )
        for row, share, mine in zip(rows, keep, lengths, strict=True)
    ]
    return UnevenPlan(stays, after)


def _staying(entries: Entries, row: RowState, keep: Mapping[int, Share], method: Compressor) -> Tensor:
    """Return which visual and label entries of a row stay, (1, heads, n) bool."""
    label = entries.kind == Kind.LABEL
    ordinal, stays = label.long().cumsum(dim=-1) - 1, label & False
    for some in label_ranges(row, keep):
        stays = stays | (label & (ordinal >= some.start) & (ordinal < some.stop))
    for segment, held in row.held.items():
        mine = (entries.segment == segment) & is_visual(entries.kind)
        wanted = keep[segment].visual
        if wanted >= held:
            stays = stays | mine
        elif wanted:
            slots = mine.byte().argsort(dim=-1, stable=True)
            part = entries.padded(slots, mine.gather(-1, slots))
            part = replace(part, context=replace(part.context, grid=row.grids[segment]))
            chosen = MethodCall(method, part, wanted).reduce_uneven()
            stays = stays | (label & False).scatter(-1, slots, chosen)
    return stays
