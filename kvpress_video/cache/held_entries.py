"""Read access to a cache layer: its entries, their metadata and their bytes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..compressor.entries import Context, Entries, Tags
from ..errors import CacheError
from .buffers import Buffers


class HeldEntries(DynamicLayer):
    """The entries of a layer with their metadata. `CompressedLayer` changes them.

    Attributes:
        keys, values: (batch, kv_heads, entries, head_dim), views of preallocated buffers.
    """

    keys: Any  # None until the first update, as in the stock layer
    values: Any
    is_initialized: bool

    def __init__(self, reserve: int = 0) -> None:
        """Make an empty layer.

        Args:
            reserve: entries to reserve space for with the first one.
        """
        super().__init__()
        self._buffers = Buffers(reserve)

    @property
    def tags(self) -> Tensor | None:
        """Tags of every entry, (batch, kv_heads, entries, Tags.WIDTH) int32; None before the first."""
        metadata = self._buffers.metadata
        return metadata[0] if metadata else None

    @property
    def places(self) -> Tensor | None:
        """Places of every entry, (batch, kv_heads, entries, width) fp32; None before the first."""
        metadata = self._buffers.metadata
        return metadata[1] if metadata else None

    @property
    def physical(self) -> int:
        """Entries held per row and head, padding included."""
        return self._buffers.length

    @property
    def span(self) -> int:
        """Entries of a head that attention reads, padding included."""
        return self.physical

    @property
    def kept(self) -> Tensor:
        """Copy of the original token index of each entry, -1 for padding, (batch, kv_heads, entries) int32."""
        if self.tags is None:
            raise CacheError("this layer holds nothing yet")
        return self.tags[..., Tags.INDEX].clone()

    @property
    def bytes(self) -> int:
        """Bytes of the held keys, values and metadata."""
        return self._buffers.held_bytes

    @property
    def reserved_bytes(self) -> int:
        """Bytes of the buffers, unused space included."""
        return self._buffers.bytes

    @property
    def bank_bytes(self) -> int:
        """Bytes of keys and values that are not on the layer's device."""
        return 0

    @property
    def staging_bytes(self) -> int:
        """Bytes of the staging buffers of the cache, on all devices."""
        return 0

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffers on the layer's device."""
        return self.reserved_bytes

    def entries(self, context: Context) -> Entries:
        """All entries."""
        if self.tags is None or self.places is None:
            raise CacheError("this layer holds nothing yet")
        keys, values, tags, places = self._buffers.held
        return Entries(keys, values, tags, places, context)

    def real(self) -> Tensor:
        """Return which entries that attention reads are not padding, (batch, kv_heads or 1, span) bool."""
        if self.tags is None:
            raise CacheError("this layer holds nothing yet")
        return self.tags[:, :1, :, Tags.INDEX] >= 0

    def _show(self) -> None:
        """Point the stock attributes at the current entries."""
        self.keys, self.values = self._buffers.states
        if not self.is_initialized:
            self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    def _present(self) -> tuple[Tensor, Tensor]:
        """Return all keys and values for the next attention."""
        return self.keys, self.values
