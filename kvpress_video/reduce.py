"""Bring the visual entries of every row down to its allocation, segment by segment, through one method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from .chunk import Row
from .compressor import Compressor
from .entries import Entries
from .errors import BudgetError


def reduce_entries(
    entries: Entries, rows: Sequence[Row], keep: Sequence[Mapping[int, int]], method: Compressor
) -> tuple[Entries, list[Row]]:
    """Compress a batch whose rows may differ in layout. Text stays, padding goes and comes back only where rows end up
    with different lengths.

    Args:
        entries: (batch, heads, n, …), all kinds, in sequence order.
        rows: what each row holds.
        keep: per row, entries to keep of each segment (per head).
        method: does the choosing, on all rows of the same layout at once.

    Returns:
        The entries in sequence order, padded in front to one length, and the rows that describe them.

    Raises:
        BudgetError: the method returned another number of entries than it was asked for.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        layout = (row.held, row.grids, keep[number])
        groups[(row.padding, *(tuple(sorted(part.items())) for part in layout))].append(number)
    parts = [_reduce_group(entries.rows(group), rows[group[0]], keep[group[0]], method) for group in groups.values()]
    length = max(len(part) for part in parts)
    joined = Entries.join([part.padded_to(length) for part in parts], dim=0)
    order = [number for group in groups.values() for number in group]
    if order != sorted(order):
        joined = joined.rows(torch.tensor(order).argsort().tolist())
    lengths = {number: len(part) for group, part in zip(groups.values(), parts, strict=True) for number in group}
    after = [
        replace(row, padding=length - lengths[number], held={s: min(keep[number][s], row.held[s]) for s in row.held})
        for number, row in enumerate(rows)
    ]
    return replace(joined, context=entries.context), after


def _reduce_group(entries: Entries, row: Row, keep: Mapping[int, int], method: Compressor) -> Entries:
    label = torch.where(entries.index < 0, -2, entries.segment)
    by_segment = entries.gather(label.argsort(dim=-1, stable=True))
    start = len(entries) - sum(row.held.values())
    parts = [by_segment.slice(row.padding, start)]
    for segment in sorted(row.held):
        stop = start + row.held[segment]
        part = by_segment.slice(start, stop)
        start = stop
        if keep[segment] < len(part):
            part = replace(part, context=replace(part.context, grid=row.grids[segment]))
            wanted = keep[segment]
            part = method.compress(part, wanted) if wanted else part.slice(0, 0)
            if len(part) != wanted:
                raise BudgetError(
                    f"{type(method).__name__} kept {len(part)} entries of layer {entries.context.layer} "
                    f"where {wanted} were asked for."
                )
        parts.append(replace(part, context=entries.context))
    return Entries.join(parts, dim=2).in_order()
