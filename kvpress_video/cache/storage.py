"""How a cache stores keys and values (unquantised, off the device or quantised), and the bytes of an entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from ..compressor.base import Compressor
from ..compressor.entries import Entries
from ..errors import CacheError, UnsupportedModelError
from .flat import PaddedRoom
from .forward_pass import RowState
from .layer import CompressedLayer
from .offloaded_layer import make_layers
from .quantization import Quantization, QuantizeLike
from .quantized_layer import quantized_layers
from .staging import HALVES
from .uneven_layer import UnevenLayer

ON_DEVICE = "device"


class CachedStates(Protocol):
    """The keys and values that a model caches per entry in one layer, as described by an adapter."""

    @property
    def kv_heads(self) -> int:
        """KV heads of this process."""

    @property
    def head_dim(self) -> int:
        """Width of a key or value."""

    @property
    def cache_dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Dtypes of keys and values."""

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and values."""

    @property
    def borrowers(self) -> Mapping[int, Sequence[Any]]:
        """Attention modules that read the cache of another layer."""

    def entry_bytes(self, compact: bool) -> int:
        """Compute the bytes of keys, values and metadata."""


class EntryBytes(NamedTuple):
    """The bytes of an entry, over all KV heads of one layer.

    Attributes:
        held: keys, values and metadata of a kept entry.
        in_work: bytes of an entry whose pass is still running.
        recent: maximum additional bytes of a layer's newest entries, all together.
        staged: keys and values of an entry in the staging buffers.
    """

    held: int
    in_work: int
    recent: int = 0
    staged: int = 0


@dataclass(frozen=True)
class Storage:
    """Unquantised keys and values, on the device of their layer, or with a bank elsewhere.

    Attributes:
        bank_on: `"device"`, `"cpu"` or `"disk"`.
    """

    bank_on: str = ON_DEVICE

    @property
    def quantization(self) -> Quantization | None:
        """How keys and values are quantised; None if they are not."""
        return None

    def entry(self, states: CachedStates, compact: bool) -> EntryBytes:
        """Compute the bytes of an entry."""
        whole = states.entry_bytes(compact)
        return EntryBytes(whole, whole, staged=0 if self.bank_on == ON_DEVICE else HALVES * states.state_bytes)

    def layer_bytes(self, states: CachedStates, compact: bool, length: int) -> int:
        """Compute the bytes of a layer of `length` entries between passes."""
        return length * self.entry(states, compact).held

    def layers(
        self,
        count: int,
        reserve: int = 0,
        rows: Sequence[RowState] = (),
        banked: Callable[[Entries], int] = len,
    ) -> Sequence[CompressedLayer]:
        """Make the empty layers of one cache, see `make_layers`."""
        return make_layers(self.bank_on, count, reserve, rows, banked)

    def check(self, states: CachedStates, method: Compressor, compact: bool) -> None:
        """Check that this storage supports a method and a model.

        Raises:
            UnsupportedModelError, CacheError: it cannot.
        """


@dataclass(frozen=True)
class UnevenStorage(Storage):
    """Unquantised keys and values of heads with different numbers of entries, without gaps."""

    def entry(self, states: CachedStates, compact: bool) -> EntryBytes:
        """Compute the bytes of an entry; attention reads one padded layer at a time."""
        whole = states.entry_bytes(compact)
        return EntryBytes(whole, whole, staged=whole)

    def layers(
        self,
        count: int,
        reserve: int = 0,
        rows: Sequence[RowState] = (),
        banked: Callable[[Entries], int] = len,
    ) -> Sequence[CompressedLayer]:
        """Make the empty layers of one cache."""
        room = PaddedRoom()
        return [UnevenLayer(room, rows) for _ in range(count)]


@dataclass(frozen=True)
class QuantizedStorage(Storage):
    """Quantised keys and values, except for the newest entries of each layer.

    Attributes:
        how: settings.
    """

    how: Quantization = field(default_factory=Quantization)

    @property
    def quantization(self) -> Quantization:
        """How keys and values are quantised."""
        return self.how

    def entry(self, states: CachedStates, compact: bool) -> EntryBytes:
        """Compute the bytes of an entry."""
        whole, unpacked = states.entry_bytes(compact), states.state_bytes
        packed = states.kv_heads * self.how.bytes(states.head_dim, states.cache_dtypes[1].itemsize)
        return EntryBytes(
            held=whole - unpacked + packed,
            in_work=whole,
            recent=self.how.most_recent * max(0, unpacked - packed),
            staged=unpacked,
        )

    def layer_bytes(self, states: CachedStates, compact: bool, length: int) -> int:
        """Compute the bytes of a layer of `length` entries between passes."""
        entry, packed = self.entry(states, compact), self.how.packed(length)
        return packed * entry.held + (length - packed) * entry.in_work

    def layers(
        self,
        count: int,
        reserve: int = 0,
        rows: Sequence[RowState] = (),
        banked: Callable[[Entries], int] = len,
    ) -> Sequence[CompressedLayer]:
        """Make the empty layers of one cache; `banked` is ignored."""
        return quantized_layers(self.how, count, reserve, rows)

    def check(self, states: CachedStates, method: Compressor, compact: bool) -> None:
        """Check that a method's cache of a model can be quantised.

        Raises:
            UnsupportedModelError: the heads do not divide into groups, or layers share their cache with others.
            CacheError: positions are compacted, heads hold different numbers of entries, or frames are exchanged.
        """
        if method.uneven or method.fresh or method.recall_share:
            does = "stores heads without gaps" if method.uneven else "exchanges frames of the cache"
            raise CacheError(
                f"{type(method).__name__} {does}, which quantised layers do not support: choose another method, or "
                "leave quantize out."
            )
        if compact:
            raise CacheError(
                "positions='compact' re-rotates cached keys, which would quantise them anew every time: pass "
                "positions='keep', or leave quantize out."
            )
        if states.borrowers:
            raise UnsupportedModelError(
                "Some layers of this model read the cache of another, which is dequantised for one layer at a time: "
                "leave quantize out."
            )
        self.how.check_width(states.head_dim)


def storage_for(method: Compressor, storage: Storage) -> Storage:
    """Return the storage that a method needs: that for uneven heads if they may hold different numbers of entries."""
    return UnevenStorage() if method.uneven else storage


def storage_of(quantize: QuantizeLike, bank_on: str = ON_DEVICE) -> Storage:
    """Choose how keys and values are stored.

    Args:
        quantize: as in `Quantization.parse`.
        bank_on: where the bank is.

    Raises:
        CacheError: the settings cannot be read, or quantisation is combined with a bank off the device.
    """
    quantization = Quantization.parse(quantize)
    if quantization is None:
        return Storage(bank_on)
    if bank_on != ON_DEVICE:
        raise CacheError(
            f"A bank on {bank_on!r} stores keys and values as they are, not quantised: pass bank_on='device', or leave "
            "quantize out."
        )
    return QuantizedStorage(how=quantization)
