"""What stays of every row's visual entries, segment by segment, through one method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..compressor.base import Compressor
from ..compressor.entries import Entries, Kind
from ..compressor.results import MethodCall
from .forward_pass import RowState


class Merged(NamedTuple):
    """Entries that stand for others.

    Attributes:
        rows: of the batch.
        slots: where they go, (rows, heads, k) int64.
        entries: (rows, heads, k, …).
    """

    rows: Sequence[int]
    slots: Tensor
    entries: Entries


@dataclass(frozen=True)
class EvictionPlan:
    """What is left of a layer.

    Attributes:
        slots: which entries stay, (batch, heads, n) int64, ascending but for the first ones of a padded row, which
            are any.
        merged: what is put over them then.
        rows: what they make.
    """

    slots: Tensor
    merged: Sequence[Merged]
    rows: Sequence[RowState]

    def of(self, entries: Entries) -> Entries:
        """The entries that are left, as copies."""
        left = entries.gather(self.slots)
        self.finish([left.keys, left.values, left.tags, left.places])
        return left

    def finish(self, parts: Sequence[Tensor]) -> None:
        """Put what is merged, and padding, over what stays: keys, values, tags and places (batch, heads, n, width)."""
        keys, values, tags, places = parts
        for rows, slots, entries in self.merged:
            for whole, part in ((keys, entries.keys), (values, entries.values), (places, entries.places)):
                for row, where, states in zip(rows, slots, part, strict=True):
                    whole[row].scatter_(1, where[..., None].expand_as(states), states)
        for row, left in enumerate(self.rows):
            for whole, nothing in ((keys, 0), (values, 0), (tags, Kind.PADDING), (places, 0)):
                whole[row, :, : left.padding] = nothing


def plan_eviction(
    entries: Entries, rows: Sequence[RowState], keep: Sequence[Mapping[int, int]], method: Compressor
) -> EvictionPlan:
    """Compress a batch whose rows may differ in layout. Text stays, padding goes and comes back only where rows end up
    with different lengths.

    Args:
        entries: (batch, heads, n, …), all kinds, in sequence order.
        rows: what each row holds.
        keep: per row, entries to keep of each segment (per head).
        method: does the choosing, on all rows of the same layout at once.

    Raises:
        MethodError: the method failed or returned an unusable result, see `MethodCall.reduce`.
        BudgetError: the method returned another number of entries than it was asked for, or (on the CPU, where looking
            is free) not in ascending order.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        layout = (row.held, row.grids, row.starts, keep[number])
        groups[(row.padding, row.loose, *(tuple(sorted(part.items())) for part in layout))].append(number)
    length = max(
        len(entries) - row.padding - sum(row.held.values()) + sum(_left(row, share).values())
        for row, share in zip(rows, keep, strict=True)
    )
    slots = torch.zeros((*entries.keys.shape[:2], length), dtype=torch.long, device=entries.keys.device)
    merged, after = [], list(rows)
    for group in groups.values():
        row, share = rows[group[0]], keep[group[0]]
        stays, stand_ins = _plan_group(entries.rows(group), row, share, method)
        padding = length - stays.shape[2]
        for number, mine in zip(group, stays, strict=True):
            slots[number, :, padding:] = mine
        merged += [Merged(group, where + padding, made) for where, made in stand_ins]
        for number in group:
            after[number] = replace(
                rows[number], padding=padding, held=_left(row, share), starts=_starts_left(row, share), loose=False
            )
    return EvictionPlan(slots, merged, after)


def _plan_group(
    entries: Entries, row: RowState, keep: Mapping[int, int], method: Compressor
) -> tuple[Tensor, list[tuple[Tensor, Entries]]]:
    """The slots that stay, (rows, heads, n) ascending, and what stands in some of them, by its place among them."""
    stay, made = [], []
    for segment, part, slots in _parts(entries, row):
        if segment is None or keep[segment] >= len(part):
            stay.append(slots)
        elif wanted := keep[segment]:
            part = replace(part, context=replace(part.context, grid=row.grids[segment]))
            chosen, merged = MethodCall(method, part, wanted).reduce()
            stay.append(slots.gather(2, chosen))
            if merged is not None:
                made.append((stay[-1], merged))
    whole = torch.cat(stay, dim=2)
    if not _in_order(row):
        whole = whole.sort(dim=-1).values
    return whole, [(torch.searchsorted(whole, slots), merged) for slots, merged in made]


def _parts(entries: Entries, row: RowState) -> Iterator[tuple[int | None, Entries, Tensor]]:
    """The segments, and the text (None) around them, with their slots."""
    if _in_order(row):
        slots = torch.arange(len(entries), device=entries.keys.device).expand(*entries.keys.shape[:2], -1)
        done = row.padding
        for segment in sorted(row.held, key=row.starts.__getitem__):
            start = row.padding + row.starts[segment]
            stop = start + row.held[segment]
            yield None, entries.slice(done, start), slots[..., done:start]
            yield segment, entries.slice(start, stop), slots[..., start:stop]
            done = stop
        yield None, entries.slice(done, len(entries)), slots[..., done:]
        return
    label = torch.where(entries.index < 0, -2, entries.segment)
    by_segment = label.argsort(dim=-1, stable=True)
    start = len(entries) - sum(row.held.values())
    yield None, entries.slice(row.padding, start), by_segment[..., row.padding : start]
    for segment in sorted(row.held):
        stop = start + row.held[segment]
        slots = by_segment[..., start:stop]
        yield segment, entries.gather(slots), slots
        start = stop


def _in_order(row: RowState) -> bool:
    """Whether each segment is one stretch of slots, at a place that is known."""
    return not row.loose and row.held.keys() <= row.starts.keys()


def _left(row: RowState, keep: Mapping[int, int]) -> dict[int, int]:
    return {segment: min(keep[segment], held) for segment, held in row.held.items()}


def _starts_left(row: RowState, keep: Mapping[int, int]) -> dict[int, int]:
    """Where the segments start once they are brought down; nothing where text is between the entries of any."""
    if not row.held.keys() <= row.starts.keys():
        return {}
    left, starts, gone = _left(row, keep), {}, 0
    for segment in sorted(row.held, key=row.starts.__getitem__):
        starts[segment] = row.starts[segment] - gone
        gone += row.held[segment] - left[segment]
    return starts
