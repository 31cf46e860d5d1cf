"""Layers whose older entries are quantised, and dequantised one layer at a time for attention to read."""

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
        like: tensors without entries, in shape and dtype as what is read.
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
        """Where they are, and are read."""
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
        """Dequantise everything from entry `start` on into `room`."""
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
        """Forget the newest entries, a multiple of the group size."""
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
    """Entries of a layer: leading groups are packed, the newest entries are as they came."""

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
        """Pack entries that are no longer recent. What attention was given stays as it is."""
        start, end = self._bank.length, self._quantization.packed(self.length)
        if end <= start:
            return
        rest = self._rest.held
        self._bank.append([part[:, :, : end - start] for part in rest])
        self._rest.clear()
        self._rest.assign([part[:, :, end - start :].clone() for part in rest])
        self._scratch.forget(self._bank, start)

    def drop_last(self, entries: int) -> None:
        """Forget the newest entries; what is left of a packed group is recent again, as it was read."""
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
    """A layer with quantised entries; those of a pass that is compressed are packed when some have left."""

    _buffers: QuantizedBuffers

    def __init__(self, buffers: QuantizedBuffers, quantization: Quantization, rows: Sequence[RowState]) -> None:
        """Make an empty layer.

        Args:
            buffers: empty ones.
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
        """Append text that was read elsewhere, one row."""
        super().extend(text)
        self._buffers.settle()

    def mark(self) -> LayerMark:
        """Return the current state, with copies of the unpacked entries."""
        mark = super().mark()
        if not self._buffers.recent or not self._buffers.recent[0].shape[2]:
            return mark
        return mark._replace(recent=_copied(self._buffers.recent))

    def rewind(self, mark: LayerMark) -> None:
        """Drop the text that was appended since a mark; what was packed since is as it was then."""
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
        count: how many layers.
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
