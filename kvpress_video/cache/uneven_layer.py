"""A cache layer whose heads hold different numbers of entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..compressor.base import Compressor
from ..compressor.entries import Entries, Tags
from ..compressor.rope import Rope
from ..errors import CacheError
from ..utils.stock_cache import stock_entry_bytes
from .allocation import Shares
from .eviction import Evicting
from .flat import FlatBuffers, PaddedRoom
from .forward_pass import RowState
from .layer import CompressedLayer
from .uneven_eviction import plan_uneven_eviction


class UnevenLayer(CompressedLayer):
    """A layer whose heads may hold different numbers of entries; row states count their average.

    Attention reads them padded in front, in memory shared by all layers of the cache. As attributes, `keys` and
    `values` are copies.
    """

    uneven: ClassVar[bool] = True
    _buffers: FlatBuffers

    def __init__(self, room: PaddedRoom, rows: Sequence[RowState] = ()) -> None:
        """Make an empty layer.

        Args:
            room: memory shared by the padded layers of the cache.
            rows: state of each row before the first pass.
        """
        super().__init__(rows=rows)
        self._buffers = FlatBuffers(room)

    @property
    def keys(self) -> Any:
        """Copies of the keys of all entries, (batch, kv_heads, span, head_dim); None before the first."""
        return self._buffers.copy(0) if self.is_initialized else None

    @keys.setter
    def keys(self, _: Any) -> None:
        """Ignore the None that the stock layer assigns first."""

    @property
    def values(self) -> Any:
        """Copies of the values of all entries, as for keys."""
        return self._buffers.copy(1) if self.is_initialized else None

    @values.setter
    def values(self, _: Any) -> None:
        """Ignore the assignment, as for keys."""

    @property
    def physical(self) -> int:
        """Entries held per row and head, on average, padding of rows included."""
        return self._buffers.average + self._buffers.length

    @property
    def span(self) -> int:
        """Entries of a head that attention reads, padding included."""
        return self._buffers.span

    @property
    def paddings(self) -> tuple[Any, ...]:
        """The padding of rows and the counts of heads, to compare layers by."""
        return (*super().paddings, *map(tuple, self._buffers.counts))

    @property
    def padded(self) -> bool:
        """Whether attention reads padding, of a row or a head."""
        return super().padded or self._buffers.uneven

    @property
    def staging_bytes(self) -> int:
        """Bytes of the padded memory that the layers of the cache share."""
        return self._buffers.staging_bytes

    @property
    def stock_bytes(self) -> int:
        """Bytes of keys and values in a stock cache that had seen the same tokens."""
        return len(self.rows) * self.heads * self.logical * stock_entry_bytes(*self._buffers.samples)

    @property
    def heads(self) -> int:
        """Number of KV heads."""
        return len(self._buffers.counts[0]) if self._buffers.counts else self._buffers.samples[0].shape[1]

    def real(self) -> Tensor:
        """Return which entries that attention reads are not padding, (batch, kv_heads, span) bool."""
        buffers = self._buffers
        if not buffers.counts:
            return super().real()
        earlier, like = buffers.real(), buffers.samples[0]
        recent = torch.ones(len(self.rows), 1, buffers.length, dtype=torch.bool, device=like.device)
        if [row.padding for row in self.rows] != buffers.paddings:
            recent = buffers.metadata[0][:, :1, buffers.longest :, Tags.INDEX] >= 0
        return torch.cat([earlier, recent.expand(-1, earlier.shape[1], -1)], dim=-1)

    def evict(self, entries: Entries, keep: Shares, method: Compressor, evicting: Evicting | None = None) -> None:
        """Evict entries of all heads together, down to the shares, see `plan_uneven_eviction`.

        No callback gets the plan: a method with a `transfer` may not keep different numbers per head.
        """
        plan = plan_uneven_eviction(entries, self.rows, self.physical, keep, method)
        self._buffers.keep_uneven(plan.stays)
        self._show()
        self.rows = list(plan.rows)

    def move(self, target: Tensor, rope: Rope, rows: Sequence[RowState] | None = None) -> None:
        """Re-rotate every key, see `CompressedLayer.move`; `target` is padded, (batch, kv_heads, span, 3)."""
        self._buffers.move(target, rope)
        self._show()
        self.rows = list(self.rows if rows is None else rows)

    def repeat_first_row(self, shift: Tensor) -> None:
        """Copy the first row's entries to every row, with token indices moved by `shift`, (batch,) int64."""
        self.batch_select_indices(torch.zeros_like(shift, dtype=torch.long))
        if self.is_initialized:
            self._buffers.shift_index(shift)

    def _show(self) -> None:
        like = self._buffers.samples[0]
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True

    def _present(self) -> tuple[Tensor, Tensor]:
        keys, values = self._buffers.states
        return keys, values


def refuse_uneven(layer: CompressedLayer, what: str) -> None:
    """Raise CacheError for an operation that layers with uneven heads do not support."""
    if layer.uneven:
        raise CacheError(
            f"{what} needs equal numbers of entries in all heads of a layer: choose a method that keeps them."
        )
