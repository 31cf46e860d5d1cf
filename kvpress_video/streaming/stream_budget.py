"""How a stream's budget is divided between frames, text, and the chunk in work."""

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

_TEXT_ROOM = 256  # entries of text that are made room for beforehand


@dataclass(frozen=True)
class StreamBudget:
    """The budget of a stream, and what has to fit into it.

    Attributes:
        adapter: adapter of the model.
        method: that the stream compresses with.
        budget: as given.
        chunk: most visual tokens of one feeding.
        text_room: text entries that a budget of bytes is kept free for after every feeding.
        opening: most text that opens frames between two questions, in tokens.
        label: text of the first temporal step, in tokens.
        longest_label: the most text of a temporal step that there can be.
        probes: tokens that ask after each feeding.
        compact: whether positions are rescaled.
        storage: how keys and values are stored.
        labels: treatment of the text of frames, see `compress`.
        experts: experts that process a visual token; None for as many as process text.
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
        """Whether the frames of a feeding run a second time, for a method that reconstructs them."""
        return "reconstruction" in self.method.needs

    @property
    def options(self) -> PrefillOptions:
        """The options that frames are prefilled with."""
        frames = self.chunk + self.chunk // (1 + self.label) * (self.longest_label - self.label)
        in_work = (1 + self.repeats) * frames + self.opening + self.probes
        in_work += self.chunk if self.labels == "keep" else 0  # as much text may come between the frames
        in_work += 0 if even(self.method) else len(self.adapter.attentions)  # shares of layers are rounded
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
        """Allocate the budget, in the dtypes that the model caches now; a frame may be larger than a chunk.

        Args:
            grid: grid of the frames seen; None before the first.
        """
        window = self.adapter.text_model.config.max_position_embeddings  # more than any holds
        allocator = self.options.allocator(self.adapter, self.method, self.budget, window)
        frame = (1 + self.repeats) * self._frame(grid) + self.opening + self.probes
        return replace(allocator, in_work=max(allocator.in_work, frame), most_held=None)

    @property
    def reserve(self) -> int:
        """Entries of a layer to make room for at the start."""
        if self.budget.unit == "ratio":
            return 0
        allocator = self.allocator(None)
        if self.budget.unit == "tokens":
            return allocator.length + (1 + self.repeats) * self.chunk + self.probes + _TEXT_ROOM
        if allocator.staging_bytes:
            return allocator.longest(allocator.length)
        return allocator.length + allocator.in_work

    def text_left(self, held: Collection[int], grid: Grid | None) -> int:
        """Return the text entries per layer that a budget of bytes has room for, a chunk of frames after them paid for.

        Args:
            held: entries of each layer.
            grid: as in `allocator`.
        """
        average = -(-sum(held) // len(held))
        return self.allocator(grid).length - average - (0 if even(self.method) else self.opening)

    def short_of_frames(self, text: int, grid: Grid | None) -> int:
        """Return how much less text a budget of bytes has to hold so that frames keep as many entries as a chunk has
        and as one frame has, or half of all that are not kept free for text.

        Args:
            text: entries of it.
            grid: as in `allocator`.
        """
        room = self.allocator(grid).length - self._free
        return text + min(max(self.chunk, self._frame(grid)), room // 2) - room

    @property
    def _free(self) -> int:
        return self.text_room + (0 if even(self.method) else self.opening)

    def _frame(self, grid: Grid | None) -> int:
        """Most tokens of a frame and its label, as far as frames were seen."""
        return self.longest_label + (grid.patches if grid else 0)
