"""Budget allocation: how many entries of each segment each row of each layer keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

from ..budget import Budget
from ..compressor.base import Compressor, checked_layer_budgets, deferred, even
from ..errors import BudgetError
from ..utils.formatting import format_bytes, plural
from .byte_entries import chunk_of, layer_entries, longest_within
from .forward_pass import RowState
from .label_choice import spread_labels
from .overfull_layer import overfull_layer
from .proportional import allocate
from .staging import staging_room

LABEL_SHARE = 0.25
"""Maximum share of a segment's budget for its labels while visual entries must be evicted."""


class Share(NamedTuple):
    """The entries of one segment that a head keeps.

    Attributes:
        visual: number of visual entries.
        labels: tokens to keep of each label, by frame, the same in every head; of a label that would exceed the budget,
            its last ones.
    """

    visual: int
    labels: Mapping[int, int] = MappingProxyType({})

    @property
    def entries(self) -> int:
        """Visual and label entries."""
        return self.visual + sum(self.labels.values())

    def holds(self, row: RowState, segment: int) -> bool:
        """Return whether this is everything that a row holds of the segment."""
        return self.visual >= row.held[segment] and self.labels == row.labels.get(segment, {})


Shares = Sequence[Mapping[int, Share]]
"""Entries to keep of each segment, by row."""


@dataclass(frozen=True)
class BudgetAllocator:
    """Allocates one budget to layers, rows and segments.

    Attributes:
        budget: the requested budget.
        method: the method, which may allocate unevenly over layers.
        layers: number of compressed text layers.
        entry_bytes: bytes of keys, values and metadata of a kept entry, over all KV heads of one layer.
        batch: number of rows that share a budget in bytes.
        uncompressed: bytes of one row that do not depend on the kept entries, such as those of uncompressed layers; a
            budget in bytes covers them too.
        text_room: text entries for which a budget in bytes reserves room.
        in_work: entries of a row that a layer holds beyond its share during the pass that adds them: one layer at a
            time, or all layers for a method that selects after the last one; a budget in bytes covers them too.
        staging_bytes: bytes per entry of the longest layer in the staging buffers; a budget in bytes covers them too.
        heads: maximum entries of a head, as a multiple of the average.
        waiting: text entries of later chunks of the prompt.
        work_bytes: bytes of an entry in work if it is larger than a kept one; 0 otherwise.
        most_held: maximum entries of a row per head, without the pass in work; None for no limit.
        transferred: entries in work that one layer holds for text to read; a budget in bytes is refused if they would
            take more of it than the kept entries.
        label_share: maximum share of a segment's budget for labels while visual entries must be evicted; 0 keeps no
            label.
    """

    budget: Budget
    method: Compressor
    layers: int
    entry_bytes: int
    batch: int
    uncompressed: int = 0
    text_room: int = 0
    in_work: int = 0
    staging_bytes: int = 0
    heads: int = 1
    waiting: int = 0
    work_bytes: int = 0
    most_held: int | None = None
    transferred: int = 0
    label_share: float = LABEL_SHARE
    _asked: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    def shares(self, rows: Sequence[RowState], length: int, layer: int | None = None) -> Shares:
        """Return the entries to keep of each segment, per row and head.

        Args:
            rows: state of each row, including the pass in flight.
            length: entries held per row, padding included.
            layer: index of the layer; None for the average layer.

        Raises:
            BudgetError: nothing would be left.
        """
        texts = self._texts(rows, length)
        return [self._shares(row, text, texts, layer) for row, text in zip(rows, texts, strict=True)]

    @property
    def length(self) -> int:
        """Average entries of a row per layer, text included, that a budget in bytes allows during a pass; a budget in
        tokens is this number.
        """
        others = self.uncompressed + self._bytes_in_work
        length = layer_entries(self.budget, self.layers, self.entry_bytes, self.batch, others)
        if self.budget.unit != "bytes" or not self.staging_bytes:
            return length
        return longest_within(int(self.budget.amount), length, self.bytes_of)

    @property
    def packs(self) -> bool:
        """Whether an entry takes fewer bytes after its pass."""
        return self.work_bytes > self.entry_bytes

    def reading(self, entries: int) -> BudgetAllocator:
        """Return an allocator that accounts for a pass of this many entries of a row, if they take fewer bytes after
        it.
        """
        return replace(self, in_work=max(self.in_work, entries)) if self.packs else self

    @property
    def _bytes_in_work(self) -> int:
        """Bytes of a row's entries in work, all layers together."""
        return self.in_work * self._entry_in_work

    @property
    def _entry_in_work(self) -> int:
        """Bytes of an entry in work, in all layers that hold it at the same time."""
        return max(self.work_bytes, self.entry_bytes) * (self.layers if deferred(self.method) else 1)

    @property
    def text_in_work(self) -> float:
        """Entries in work that fit into the room reserved for one future text entry."""
        staged = staging_room(self.staging_bytes)
        return (self.layers * self.entry_bytes + staged) / (self._entry_in_work + staged)

    def longest(self, length: int) -> int:
        """Return the maximum entries of a row in any head if layers hold `length` on average, with a pass in work."""
        uneven = not even(self.method) and self._leaves_each_layer(length)
        most = self.heads * (max(self._by_layer(length)) if uneven else length)
        return (most if self.most_held is None else min(most, self.most_held)) + self.in_work

    def bytes_of(self, length: int) -> int:
        """Return the peak bytes of the cache if layers hold `length` entries of a row on average."""
        entries = self.uncompressed + length * self.layers * self.entry_bytes + self._bytes_in_work
        staged = staging_room(self.longest(length)) * self.staging_bytes if self.staging_bytes else 0
        return self.batch * (entries + staged)

    def usual_chunk(self, rows: Sequence[RowState], length: int) -> int:
        """Return the default chunk for a budget in bytes, see `chunk_of`.

        Args:
            rows, length: as in `shares`, including all chunks.
        """
        whole = replace(self, in_work=0).length
        return chunk_of(whole, max(self._texts(rows, length)), self.layers, max(1, self.work_bytes / self.entry_bytes))

    def hold_all(self, rows: Sequence[RowState], length: int) -> bool:
        """Whether every layer may keep everything that the rows hold."""
        texts = self._texts(rows, length)
        if self.budget.unit == "bytes" and not self._leaves_each_layer(self.length - max(texts)):
            return False
        return all(
            share[segment].holds(row, segment)
            for layer in range(self.layers)
            for share, row in zip(self.shares(rows, length, layer), rows, strict=True)
            for segment in row.held
        )

    def check(self, rows: Sequence[RowState], length: int) -> None:
        """Check that uncompressed rows can be compressed to their budget.

        Raises:
            BudgetError: the method allocates more to a layer than it holds, which would leave budget unused.
        """
        if self.budget.unit == "bytes":
            return
        texts = self._texts(rows, length)
        filled = [(row, text) for row, text in zip(rows, texts, strict=True) if row.seen]
        for (row, text), layer in product(filled, range(self.layers)):
            available, mine = row.visual + row.label_tokens, self._wanted(row, text, texts, layer)
            if self._total(row, text) <= available < mine:
                seen = sum(map(row.tokens_seen, row.seen))
                raise overfull_layer(self.method, self.budget, self._by_layer, layer, available, seen)

    def _shares(self, row: RowState, text: int, texts: Sequence[int], layer: int | None) -> Mapping[int, Share]:
        if not row.seen:
            return {}
        mine = self._wanted(row, text, texts, layer)
        if mine < 1:
            raise BudgetError(
                f"{self.budget} leaves no visual entry in layer {layer or 0} of {sum(row.seen.values())} visual tokens"
                f" uncompressed {text} text entries: ask for more."
            )
        self._check_labels(row, mine, text)
        seen = {segment: row.tokens_seen(segment) for segment in row.seen}
        labels = {segment: row.labels.get(segment, {}) for segment in row.held}
        held = {segment: count + sum(labels[segment].values()) for segment, count in row.held.items()}
        shares = allocate(mine, seen, held)
        return {segment: self._share(share, row.held[segment], labels[segment]) for segment, share in shares.items()}

    def _share(self, entries: int, visual: int, labels: Mapping[int, int]) -> Share:
        """Divide the entries of a segment between its visual tokens and its labels."""
        if entries >= visual + sum(labels.values()):
            return Share(visual, labels)
        if not self.label_share or not labels:
            return Share(min(entries, visual))
        newest = labels[max(labels)]
        room = max(int(self.label_share * entries), entries - visual, newest if newest < entries else 0)
        kept = spread_labels(labels, room)
        left = entries - sum(kept.values())
        for frame in reversed(labels):
            if frame not in kept and left > visual:
                kept[frame] = min(labels[frame], left - visual)
                left -= kept[frame]
        return Share(left, {frame: kept[frame] for frame in labels if frame in kept})

    def _check_labels(self, row: RowState, entries: int, text: int) -> None:
        """Raise BudgetError if a row has no room for the longest label of a video and its frame."""
        longest = [max(frames.values()) for frames in row.labels.values() if frames]
        if self.label_share and longest and entries <= min(longest) and entries < row.visual + row.label_tokens:
            least = min(longest) + 1
            enough = self._least(text + least) if self.budget.unit == "bytes" else str(least)
            cure = f"ask for {enough} or more" if even(self.method) else "ask for more, or spread it more evenly"
            where = "" if even(self.method) else f" in a layer of {type(self.method).__name__}"
            raise BudgetError(
                f"A budget of {self.budget} leaves {plural(entries, 'entry')} for frames{where}, but the text that the "
                f"processor writes for one frame takes {min(longest)} and its frame at least one: {cure}, or pass "
                "labels='drop'."
            )

    def _texts(self, rows: Sequence[RowState], length: int) -> list[int]:
        """Text entries of each row, including later ones and reserved room."""
        more = self.waiting + self.text_room
        return [row.text(length) + more for row in rows]

    def _wanted(self, row: RowState, text: int, texts: Sequence[int], layer: int | None) -> int:
        padding = max(texts) - text if self.budget.unit == "bytes" else 0
        total = self._total(row, text) - padding
        return (total if layer is None or total < 1 else self._by_layer(total)[layer]) + padding

    def _by_layer(self, total: int) -> tuple[int, ...]:
        """Budget of every layer for an average of `total` entries; the method is called once."""
        if total not in self._asked:
            self._asked[total] = checked_layer_budgets(self.method, total, self.layers)
        return self._asked[total]

    def _total(self, row: RowState, text: int) -> int:
        if self.budget.unit == "tokens":
            return int(self.budget.amount)
        if self.budget.unit == "ratio":
            return self.budget.entries(sum(map(row.tokens_seen, row.seen)))
        total = self.length - text
        if total >= self._least_kept and self._leaves_each_layer(total):
            return total
        raise BudgetError(self._too_little(text))

    @property
    def _least_kept(self) -> int:
        """Minimum average of visual entries per layer under a budget in bytes."""
        return max(1, -(-self.transferred // self.layers))

    def _leaves_each_layer(self, total: int) -> bool:
        """Whether every layer keeps an entry at an average of `total`."""
        if even(self.method):
            return total > 0
        try:
            return total > 0 and min(self._by_layer(total)) > 0
        except BudgetError:
            return False

    def _too_little(self, text: int) -> str:
        """Build the message for a budget in bytes that is too small, which names one that suffices."""
        least = self._least_kept
        fewest = next(filter(self._leaves_each_layer, range(least, least + 10_000)), least)
        visual = "one visual entry" if fewest == 1 else f"{fewest} visual entries per layer"
        work = cure = ""
        if self.transferred:
            work = f" plus {self.in_work} more, {self.transferred} of which one layer evicts and the text then reads"
        elif self.in_work:
            work, cure = f" plus {self.in_work} more of a chunk while one layer reads it", ", or read smaller chunks"
        rows = f" of {self.batch} rows" if self.batch > 1 else ""
        return (
            f"{self.budget} cannot hold the {text} text entries{rows} in {self.layers} layers and "
            f"{visual}{work}: ask for at least {self._least(text + fewest)}{cure}."
        )

    def _least(self, length: int) -> str:
        """Smallest budget in bytes that allows each layer `length` entries, its MiB rounded up to two decimals."""
        least, hundredth = self.bytes_of(length), 2**20 / 100
        return f"{format_bytes(ceil(least / hundredth) * hundredth, 'MiB')} ({least} bytes)"
