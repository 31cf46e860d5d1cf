"""Eviction plans: the entries that stay in a layer, selected by a method for each row and segment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..compressor.base import Compressor, deferred
from ..compressor.entries import Entries, Kind, LayerScores
from ..compressor.results import MethodCall
from .allocation import Share, Shares
from .forward_pass import RowState

_PADDING, _LABELS = -3, -2  # their place in the order of segments; text has segment -1


class Merged(NamedTuple):
    """Merged entries of some rows, and the slots that they replace.

    Attributes:
        rows: indices of the rows in the batch.
        slots: slots after eviction, (rows, heads, k) int64.
        entries: the merged entries, (rows, heads, k, …).
    """

    rows: Sequence[int]
    slots: Tensor
    entries: Entries


class Scored(NamedTuple):
    """Scores of the candidate entries in some rows.

    Attributes:
        rows: indices of the rows in the batch.
        slots: slots before eviction, (rows, heads, n) int64.
        scores: (rows, heads, n).
    """

    rows: Sequence[int]
    slots: Tensor
    scores: Tensor


@dataclass(frozen=True)
class EvictionPlan:
    """Entries that stay in a layer.

    Attributes:
        slots: slots of the entries that stay, (batch, heads, n) int64, ascending; arbitrary in the padding of a row.
        merged: merged entries, which then replace some of them.
        rows: state of each row afterwards.
        scored: scores of the candidates, for a method that needs those of the next deeper layer.
    """

    slots: Tensor
    merged: Sequence[Merged]
    rows: Sequence[RowState]
    scored: Sequence[Scored] = ()

    def of(self, entries: Entries) -> Entries:
        """Return copies of the entries that stay, merged entries and padding included."""
        left = entries.gather(self.slots)
        self.finish([left.keys, left.values, left.tags, left.places])
        return left

    def layer_scores(self, entries: Entries) -> LayerScores:
        """Return the scores of all entries before eviction, for the next shallower layer."""
        scores = entries.places.new_full(entries.index.shape, torch.nan)
        for rows, slots, found in self.scored:
            for row, where, mine in zip(rows, slots, found, strict=True):
                scores[row].scatter_(1, where, mine.float())
        return LayerScores(entries.index.clone(), scores)

    def finish(self, parts: Sequence[Tensor]) -> None:
        """Write merged entries and padding into keys, values, tags and places, (batch, heads, n, width) each."""
        keys, values, tags, places = parts
        for rows, slots, entries in self.merged:
            for whole, part in ((keys, entries.keys), (values, entries.values), (places, entries.places)):
                for row, where, states in zip(rows, slots, part, strict=True):
                    whole[row].scatter_(1, where[..., None].expand_as(states), states)
        for row, left in enumerate(self.rows):
            for whole, nothing in ((keys, 0), (values, 0), (tags, Kind.PADDING), (places, 0)):
                whole[row, :, : left.padding] = nothing


Evicting = Callable[[Entries, EvictionPlan], None]
"""Callback with the entries of a layer and the plan for them."""


def plan_eviction(entries: Entries, rows: Sequence[RowState], keep: Shares, method: Compressor) -> EvictionPlan:
    """Select the entries that stay in a batch whose rows may differ in layout.

    Text and the labels of the shares stay. Padding is dropped, and added only if rows end up with different lengths.
    The method runs once per segment for all rows of the same layout.

    Args:
        entries: everything the layer holds, (batch, heads, n, …), in sequence order.
        rows: state of each row.
        keep: per row, entries to keep of each segment, per head.
        method: the method.

    Raises:
        MethodError: the method failed or returned an unusable result, see `MethodCall.reduce`.
        BudgetError: the method returned another number of entries than it was asked for, or (on the CPU) slots out of
            range or not in ascending order.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        layout = (row.held, row.grids, row.starts)
        labels = tuple((segment, *frames.items()) for segment, frames in sorted(row.labels.items()))
        stays = tuple(
            (segment, mine.visual, tuple(mine.labels.items())) for segment, mine in sorted(keep[number].items())
        )
        parts = (tuple(sorted(part.items())) for part in layout)
        groups[(row.padding, row.loose, *parts, labels, stays)].append(number)
    length = max(
        row.text(len(entries)) + sum(mine.entries for mine in share.values())
        for row, share in zip(rows, keep, strict=True)
    )
    slots = torch.zeros((*entries.keys.shape[:2], length), dtype=torch.long, device=entries.keys.device)
    merged, scored, after = [], [], list(rows)
    for group in groups.values():
        row, share = rows[group[0]], keep[group[0]]
        chosen, stand_ins, found = _plan_group(entries.rows(group), row, share, method)
        padding = length - chosen.shape[2]
        for number, mine in zip(group, chosen, strict=True):
            slots[number, :, padding:] = mine
        merged += [Merged(group, where + padding, made) for where, made in stand_ins]
        scored += [Scored(group, where, scores) for where, scores in found]
        for number in group:
            after[number] = replace(
                rows[number],
                padding=padding,
                held={segment: mine.visual for segment, mine in share.items()},
                labels={segment: mine.labels for segment, mine in share.items() if mine.labels},
                starts=_starts_left(row, share),
                loose=False,
            )
    return EvictionPlan(slots, merged, after, scored)


def _plan_group(
    entries: Entries, row: RowState, keep: Mapping[int, Share], method: Compressor
) -> tuple[Tensor, list[tuple[Tensor, Entries]], list[tuple[Tensor, Tensor]]]:
    """Return the slots that stay, (rows, heads, n) ascending; merged entries with their indices among them; and the
    scored slots, for a method that needs scores of the next deeper layer.
    """
    stay, made, scored = [], [], []
    for segment, part, slots in _parts(entries, row, keep):
        if segment is None or keep[segment].visual >= len(part):
            stay.append(slots)
        elif wanted := keep[segment].visual:
            part = replace(part, context=replace(part.context, grid=row.grids[segment]))
            call = MethodCall(method, part, wanted)
            chosen, merged, scores = call.reduce()
            stay.append(slots.gather(2, chosen))
            if deferred(method):
                scored.append((slots, call.scores() if scores is None else scores))
            if merged is not None:
                made.append((stay[-1], merged))
    whole = torch.cat(stay, dim=2)
    if not _in_order(row):
        whole = whole.sort(dim=-1).values
    return whole, [(torch.searchsorted(whole, slots), merged) for slots, merged in made], scored


def _parts(entries: Entries, row: RowState, keep: Mapping[int, Share]) -> Iterator[tuple[int | None, Entries, Tensor]]:
    """Iterate over the segments with their entries and slots; text and the labels that stay come with None for a
    segment.
    """
    if _in_order(row):
        slots = torch.arange(len(entries), device=entries.keys.device).expand(*entries.keys.shape[:2], -1)
        done = row.padding
        for segment in sorted(row.held, key=row.starts.__getitem__):
            start = row.padding + row.starts[segment]
            stop = start + row.held[segment]
            yield None, entries, slots[..., done:start]
            yield segment, entries.slice(start, stop), slots[..., start:stop]
            done = stop
        yield None, entries, slots[..., done:]
        return
    group = torch.where(entries.kind == Kind.LABEL, _LABELS, entries.segment)
    by_segment = torch.where(entries.index < 0, _PADDING, group).argsort(dim=-1, stable=True)
    first = row.padding + row.label_tokens
    labels, start = by_segment[..., row.padding : first], len(entries) - row.visual
    yield None, entries, by_segment[..., first:start]
    for stays in label_ranges(row, keep):
        yield None, entries, labels[..., stays.start : stays.stop]
    for segment in sorted(row.held):
        stop = start + row.held[segment]
        slots = by_segment[..., start:stop]
        yield segment, entries.gather(slots), slots
        start = stop


def label_ranges(row: RowState, keep: Mapping[int, Share]) -> Iterator[range]:
    """Iterate over the ranges of a row's label tokens that stay, counted in sequence order."""
    start, end = 0, 0
    for segment, held in sorted(row.labels.items()):
        for frame, tokens in held.items():
            stays = keep[segment].labels.get(frame, 0)
            if stays < tokens:
                if end > start:
                    yield range(start, end)
                start = end + tokens - stays
            end += tokens
    if end > start:
        yield range(start, end)


def _in_order(row: RowState) -> bool:
    """Check that each segment occupies one contiguous range of slots whose start is known."""
    return not row.loose and not row.labels and row.held.keys() <= row.starts.keys()


def _starts_left(row: RowState, keep: Mapping[int, Share]) -> dict[int, int]:
    """Return the start of each segment after eviction; empty if text lies between the entries of one."""
    if not row.held.keys() <= row.starts.keys():
        return {}
    starts, gone = {}, 0
    for segment in sorted(row.held, key=row.starts.__getitem__):
        starts[segment] = row.starts[segment] - gone
        gone += row.held[segment] - keep[segment].visual
    return starts
