"""From the budget asked for to the entries that each row of each layer may keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .budget import Budget, allocate
from .chunk import Row
from .compressor import Compressor
from .errors import BudgetError


@dataclass(frozen=True)
class Allotment:
    """Turns one budget into shares per segment.

    Attributes:
        budget: as asked.
        method: may spread it unevenly over layers.
        layers: text layers that are compressed.
        entry_bytes: keys, values and metadata of one entry, all KV heads of one layer.
        beside: bytes of one row that the other layers hold; a budget of bytes pays for them too.
    """

    budget: Budget
    method: Compressor
    layers: int
    entry_bytes: int
    beside: int = 0

    def shares(self, row: Row, text: int, widest: int, batch: int, layer: int | None = None) -> Mapping[int, int]:
        """Entries to keep of each segment of a row, per head.

        Args:
            row: what it holds and has seen, the pass in flight included.
            text: text entries it holds, per head.
            widest: text entries of the row with most, which padding brings the others up to.
            batch: rows that share a budget of bytes.
            layer: which layer; None for the average layer.

        Raises:
            BudgetError: nothing would be left.
        """
        if not row.seen:
            return {}
        mine = self._wanted(row, text, widest, batch, layer)
        if mine < 1:
            raise BudgetError(
                f"{self.budget} leaves no visual entry in layer {layer or 0} of {sum(row.seen.values())} visual tokens"
                f" beside {text} text entries: ask for more."
            )
        return allocate(mine, row.seen, row.held)

    def check(self, row: Row, text: int, widest: int, batch: int) -> None:
        """See to it that a row which is whole can be brought down to its budget.

        Raises:
            BudgetError: the method gives a layer more than there is, so that the budget would not be used up.
        """
        if self.budget.unit == "bytes" or not row.seen:
            return
        available, total = sum(row.held.values()), self._total(row, text, batch)
        for layer in range(self.layers):
            mine = self._wanted(row, text, widest, batch, layer)
            if total <= available < mine:
                raise BudgetError(
                    f"{type(self.method).__name__} gives layer {layer} {mine} of the {available} visual entries there "
                    "are: lower the budget or spread it more evenly."
                )

    def _wanted(self, row: Row, text: int, widest: int, batch: int, layer: int | None) -> int:
        padding = widest - text if self.budget.unit == "bytes" else 0
        total = self._total(row, text, batch) - padding
        return (total if layer is None else self.method.layer_budget(total, layer, self.layers)) + padding

    def _total(self, row: Row, text: int, batch: int) -> int:
        if self.budget.unit == "tokens":
            return int(self.budget.amount)
        if self.budget.unit == "ratio":
            return self.budget.entries(sum(row.seen.values()))
        length = (int(self.budget.amount) - batch * self.beside) // (self.layers * batch * self.entry_bytes)
        if length <= text:
            least = batch * (self.beside + (text + 1) * self.layers * self.entry_bytes)
            raise BudgetError(
                f"{self.budget} cannot hold the {text} text entries of {batch} row(s) in {self.layers} layers and one "
                f"visual entry: ask for at least {least / 2**20:.2f}MiB."
            )
        return length - text
