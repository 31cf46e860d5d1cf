"""From the budget asked for to the entries that each row of each layer may keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ..budget import Budget, allocate
from ..compressor.base import Compressor
from ..errors import BudgetError
from ..utils.formatting import format_bytes
from .forward_pass import RowState


@dataclass(frozen=True)
class BudgetAllocator:
    """Turns one budget into shares per row and segment.

    Attributes:
        budget: as asked.
        method: may spread it unevenly over layers.
        layers: text layers that are compressed.
        entry_bytes: keys, values and metadata of one entry, all KV heads of one layer.
        batch: rows that share a budget of bytes.
        beside: bytes of one row that the other layers hold; a budget of bytes pays for them too.
        text_room: text entries that a budget of bytes is kept free for.
        waiting: text entries that follow in later parts of the pass.
    """

    budget: Budget
    method: Compressor
    layers: int
    entry_bytes: int
    batch: int
    beside: int = 0
    text_room: int = 0
    waiting: int = 0

    def shares(self, rows: Sequence[RowState], length: int, layer: int | None = None) -> list[Mapping[int, int]]:
        """Entries to keep of each segment, per row and head.

        Args:
            rows: what they hold and have seen, the pass in flight included.
            length: entries that they hold, padding included.
            layer: which layer; None for the average layer.

        Raises:
            BudgetError: nothing would be left.
        """
        texts = self._texts(rows, length)
        return [self._shares(row, text, texts, layer) for row, text in zip(rows, texts, strict=True)]

    def hold_all(self, rows: Sequence[RowState], length: int) -> bool:
        """Whether every layer may keep all that the rows hold."""
        return all(
            share[segment] >= row.held[segment]
            for layer in range(self.layers)
            for share, row in zip(self.shares(rows, length, layer), rows, strict=True)
            for segment in row.held
        )

    def check(self, rows: Sequence[RowState], length: int) -> None:
        """See to it that rows which are whole can be brought down to their budget.

        Raises:
            BudgetError: the method gives a layer more than there is, so that the budget would not be used up.
        """
        if self.budget.unit == "bytes":
            return
        texts = self._texts(rows, length)
        seen = [(row, text) for row, text in zip(rows, texts, strict=True) if row.seen]
        for (row, text), layer in product(seen, range(self.layers)):
            available, mine = sum(row.held.values()), self._wanted(row, text, texts, layer)
            if self._total(row, text) <= available < mine:
                raise BudgetError(
                    f"{type(self.method).__name__} gives layer {layer} {mine} of the {available} visual entries there "
                    "are: lower the budget or spread it more evenly."
                )

    def _shares(self, row: RowState, text: int, texts: Sequence[int], layer: int | None) -> Mapping[int, int]:
        if not row.seen:
            return {}
        mine = self._wanted(row, text, texts, layer)
        if mine < 1:
            raise BudgetError(
                f"{self.budget} leaves no visual entry in layer {layer or 0} of {sum(row.seen.values())} visual tokens"
                f" beside {text} text entries: ask for more."
            )
        return allocate(mine, row.seen, row.held)

    def _texts(self, rows: Sequence[RowState], length: int) -> list[int]:
        """Text entries of each row, those that follow and those that room is kept for included."""
        more = self.waiting + self.text_room
        return [length + more - row.padding - sum(row.held.values()) for row in rows]

    def _wanted(self, row: RowState, text: int, texts: Sequence[int], layer: int | None) -> int:
        padding = max(texts) - text if self.budget.unit == "bytes" else 0
        total = self._total(row, text) - padding
        return (total if layer is None else self.method.layer_budget(total, layer, self.layers)) + padding

    def _total(self, row: RowState, text: int) -> int:
        if self.budget.unit == "tokens":
            return int(self.budget.amount)
        if self.budget.unit == "ratio":
            return self.budget.entries(sum(row.seen.values()))
        length = (int(self.budget.amount) // self.batch - self.beside) // (self.layers * self.entry_bytes)
        if length <= text:
            least = self.batch * (self.beside + (text + 1) * self.layers * self.entry_bytes)
            raise BudgetError(
                f"{self.budget} cannot hold the {text} text entries of {self.batch} row(s) in {self.layers} layers and "
                f"one visual entry: ask for at least {format_bytes(least, 'MiB')} ({least} bytes)."
            )
        return length - text
