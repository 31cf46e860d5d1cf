"""Division of a stream's budget between frames, text, and the chunk in work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ..budget import Budget
from ..cache.allocation import BudgetAllocator
from ..cache.storage import Storage
from ..compressor.base import Compressor, even
from ..compressor.entries import Grid
from ..models.base import Adapter
from ..prefill.options import Labels, PrefillOptions

_TEXT_ROOM = 256  # text entries reserved in advance


@dataclass(frozen=True)
class StreamBudget:
    """The budget of a stream, with everything that counts against it.

    Attributes:
        adapter: adapter of the model.
        method: method of the stream.
        budget: the requested budget.
        chunk: maximum visual tokens of one feeding.
        text_room: text entries for which a budget in bytes has room after every feeding.
        opening: maximum tokens of text that opens frames between two questions.
        label: tokens of text of the first temporal step.
        longest_label: maximum tokens of text of any temporal step.
        probes: number of probes after each feeding.
        compact: whether positions are rescaled.
        storage: how keys and values are stored.
        labels: treatment of the text of frames, see `compress`.
        experts: number of experts per visual token; None for as many as for text.
    """

    adapter: Adapter
    method: Compressor
    budget: Budget
    chunk: int
    text_room: int
    opening: int
    label: int
    longest_label: int
    probes: int
    compact: bool
    storage: Storage
    labels: Labels
    experts: int | None

    @property
    def repeats(self) -> bool:
        """Whether the frames of a feeding are repeated, for a method that reconstructs them."""
        return "reconstruction" in self.method.needs

    @property
    def options(self) -> PrefillOptions:
        """The prefill options of frames."""
        frames = self.chunk + self.chunk // (1 + self.label) * (self.longest_label - self.label)
        in_work = (1 + self.repeats) * frames + self.opening + self.probes
        in_work += self.chunk if self.labels == "keep" else 0  # as much text may separate frames
        in_work += 0 if even(self.method) else len(self.adapter.attentions)  # layer shares are rounded
        return PrefillOptions(
            chunk=self.chunk,
            positions="compact" if self.compact else "keep",
            text_room=self._free,
            in_work=in_work,
            storage=self.storage,
            labels=self.labels,
            experts=self.experts,
        )

    def allocator(self, grid: Grid | None) -> BudgetAllocator:
        """Return the allocator of the budget for the model's current dtypes; a frame may be larger than a chunk.

        Args:
            grid: grid of the frames seen; None before the first.
        """
        window = self.adapter.text_model.config.max_position_embeddings  # more than any layer holds
        allocator = self.options.allocator(self.adapter, self.method, self.budget, window)
        frame = (1 + self.repeats) * self._frame(grid) + self.opening + self.probes
        return replace(allocator, in_work=max(allocator.in_work, frame), most_held=None)

    @property
    def reserve(self) -> int:
        """Entries to reserve for a layer at the start."""
        if self.budget.unit == "ratio":
            return 0
        allocator = self.allocator(None)
        if self.budget.unit == "tokens":
            return allocator.length + (1 + self.repeats) * self.chunk + self.probes + _TEXT_ROOM
        if allocator.staging_bytes:
            return allocator.longest(allocator.length)
        return allocator.length + allocator.in_work

    def text_left(self, held: Collection[int], grid: Grid | None) -> int:
        """Return the text entries per layer for which a budget in bytes has room, including a chunk of frames after
        them.

        Args:
            held: entries of each layer.
            grid: as in `allocator`.
        """
        average = -(-sum(held) // len(held))
        return self.allocator(grid).length - average - (0 if even(self.method) else self.opening)

    def short_of_frames(self, text: int, grid: Grid | None) -> int:
        """Return how many text entries must be evicted from a budget in bytes so that frames keep at least a chunk and
        a frame, or half of the entries not reserved for text.

        Args:
            text: number of text entries.
            grid: as in `allocator`.
        """
        room = self.allocator(grid).length - self._free
        return text + min(max(self.chunk, self._frame(grid)), room // 2) - room

    @property
    def _free(self) -> int:
        return self.text_room + (0 if even(self.method) else self.opening)

    def _frame(self, grid: Grid | None) -> int:
        """Maximum tokens of a frame and its label, given the frames seen."""
        return self.longest_label + (grid.patches if grid else 0)
