"""Layers whose older entries are quantised, and dequantised for attention one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Entries
from .banked_layer import BankedBuffers, BankedLayer
from .buffers import Buffers
from .forward_pass import RowState
from .layer_mark import LayerMark
from .packing import PackedKeys, PackedValues, pack_keys, pack_values, unpack_keys, unpack_values
from .quantization import Quantization
from .staging import StagingBuffers


class PackedBank:
    """Quantised keys and values, in whole groups.

    Attributes:
        like: empty tensors with the shape and dtype of the dequantised ones.
    """

    def __init__(self, quantization: Quantization) -> None:
        self._quantization = quantization
        self._entries, self._groups = Buffers(), Buffers()
        self.like: tuple[Tensor, ...] = ()

    @property
    def length(self) -> int:
        """Entries held."""
        return self._entries.length

    @property
    def device(self) -> torch.device:
        """Device of the entries, where they are read."""
        return self.like[0].device if self.like else torch.device("cpu")

    @property
    def bytes(self) -> int:
        """Bytes of the buffers."""
        return self._entries.bytes + self._groups.bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of codes, exponents, offsets and ranges."""
        return self._entries.held_bytes + self._groups.held_bytes

    @property
    def held(self) -> tuple[Tensor, ...]:
        """Return the stored tensors: codes of keys and values, ranges of values, exponents and offsets of key
        groups."""
        return (*self._entries.held, *self._groups.held)

    def append(self, parts: Sequence[Tensor]) -> None:
        """Quantise keys and values, (batch, kv_heads, n, head_dim) each, n a multiple of the group size."""
        keys, values = (part.detach().contiguous() for part in parts)
        how = self._quantization
        packed_keys = pack_keys(keys, how.nbits, how.q_group_size)
        packed_values = pack_values(values, how.nbits, how.value_group(values.shape[-1]))
        self.like = tuple(part.new_empty((*part.shape[:2], 0, part.shape[3])) for part in (keys, values))
        self._entries.append([packed_keys.codes, *packed_values])
        self._groups.append([packed_keys.exponents, packed_keys.offsets])

    def read(self, start: int, room: Sequence[Tensor]) -> Callable[[], None]:
        """Dequantise all entries from `start` on into `room`."""
        how = self._quantization
        group, (keys, values) = start // how.q_group_size, self.like
        first = group * how.q_group_size
        key_codes, *value_parts = (part[:, :, first:] for part in self._entries.held)
        packed_keys = PackedKeys(key_codes, *(part[:, :, group:] for part in self._groups.held))
        whole = (
            unpack_keys(packed_keys, how.nbits, how.q_group_size, keys.dtype),
            unpack_values(PackedValues(*value_parts), how.nbits, how.value_group(values.shape[-1])),
        )
        for to, part in zip(room, whole, strict=True):
            to.copy_(part[:, :, start - first :])
        return _nothing_to_wait_for

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries, a multiple of the group size."""
        self._entries.drop_last(entries)
        self._groups.drop_last(entries // self._quantization.q_group_size)

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the batch of every tensor."""
        self._entries.map_rows(change)
        self._groups.map_rows(change)
        self.like = tuple(map(change, self.like))

    def clear(self) -> None:
        """Drop all entries and buffers."""
        self._entries.clear()
        self._groups.clear()


class QuantizedBuffers(BankedBuffers):
    """The entries of a layer, with the leading groups packed and the newest entries unquantised."""

    _bank: PackedBank

    def __init__(self, quantization: Quantization, scratch: StagingBuffers, reserve: int) -> None:
        super().__init__(PackedBank(quantization), scratch, reserve)
        self._quantization = quantization

    @property
    def recent(self) -> tuple[Tensor, ...]:
        """Return keys, values, tags and places of the entries that are not packed: views."""
        metadata = (part[:, :, self._bank.length :] for part in self.metadata)
        return (*self._rest.held, *metadata)

    def settle(self) -> None:
        """Pack entries that are no longer recent. Tensors passed to attention do not change."""
        start, end = self._bank.length, self._quantization.packed(self.length)
        if end <= start:
            return
        rest = self._rest.held
        self._bank.append([part[:, :, : end - start] for part in rest])
        self._rest.clear()
        self._rest.assign([part[:, :, end - start :].clone() for part in rest])
        self._scratch.forget(self._bank, start)

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries; the rest of a packed group is recent again, with its dequantised values."""
        left = self.length - entries
        if left < self._bank.length:
            start = left // self._quantization.q_group_size * self._quantization.q_group_size
            rest = [part[:, :, start:].clone() for part in self.held[:2]]
            self._bank.drop_last(self._bank.length - start)
            self._rest.clear()
            self._rest.assign(rest)
        super().drop_last(entries)

    def _unchanged(self, parts: Sequence[Tensor]) -> int:
        """Count the entries of the leading groups that are unchanged."""
        return super()._unchanged(parts) // self._quantization.q_group_size * self._quantization.q_group_size


class QuantizedLayer(BankedLayer):
    """A layer with quantised entries; those of a compressed pass are packed after eviction."""

    _buffers: QuantizedBuffers

    def __init__(self, buffers: QuantizedBuffers, quantization: Quantization, rows: Sequence[RowState]) -> None:
        """Make an empty layer.

        Args:
            buffers: empty buffers.
            quantization: settings.
            rows: state of each row before the first pass.
        """
        super().__init__(buffers, lambda entries: quantization.packed(len(entries)), rows)
        self.quantization = quantization

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, and pack entries that are no longer recent, unless the pass is still to be
        compressed."""
        arriving = self.incoming
        held = super().update(key_states, value_states, *args, **kwargs)
        if arriving is None or not (arriving.compress or arriving.probes):
            self._buffers.settle()
        return held

    def extend(self, text: Entries) -> None:
        """Append text of one row that another cache has read."""
        super().extend(text)
        self._buffers.settle()

    def mark(self) -> LayerMark:
        """Return the current state, with copies of the unpacked entries."""
        mark = super().mark()
        if not self._buffers.recent or not self._buffers.recent[0].shape[2]:
            return mark
        return mark._replace(recent=_copied(self._buffers.recent))

    def rewind(self, mark: LayerMark) -> None:
        """Drop the text appended since a mark, and restore entries packed since."""
        grown = self.physical > mark.physical
        super().rewind(mark)
        if grown and mark.recent is not None:
            self.replace(mark.restored(_copied(self._buffers.held)), mark.rows)


def quantized_layers(
    quantization: Quantization, count: int, reserve: int = 0, rows: Sequence[RowState] = ()
) -> list[QuantizedLayer]:
    """Make empty layers of one cache.

    Args:
        quantization: settings.
        count: number of layers.
        reserve: entries to reserve space for with the first one.
        rows: state of each row before the first pass.
    """
    scratch = StagingBuffers(reserve, slots=1)
    buffers = (QuantizedBuffers(quantization, scratch, reserve) for _ in range(count))
    return [QuantizedLayer(each, quantization, rows) for each in buffers]


def _copied(parts: Sequence[Tensor]) -> Entries:
    keys, values, tags, places = (part.clone() for part in parts)
    return Entries(keys, values, tags, places)


def _nothing_to_wait_for() -> None: ...
