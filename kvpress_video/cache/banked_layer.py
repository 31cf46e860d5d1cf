"""Layers whose older entries are in a bank, off the device or packed on it; attention reads them through staging
buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..compressor.entries import Context, Entries
from .buffers import Buffers
from .eviction import EvictionPlan
from .forward_pass import Metadata, RowState, joined_metadata
from .layer import CompressedLayer
from .staging import Stageable, StagingBuffers


class Bank(Stageable, Protocol):
    """Keys and values of leading entries, stored in another place or form than attention reads."""

    @property
    def bytes(self) -> int:
        """Bytes of the buffers."""

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries held."""

    def append(self, parts: Sequence[Tensor]) -> None:
        """Add keys and values, (batch, kv_heads, n, head_dim) each."""

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries."""

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the batch of every tensor."""

    def clear(self) -> None:
        """Drop all entries and buffers."""


class BankedBuffers(Buffers):
    """The entries of a layer whose leading keys and values are in a bank; all else is as in other layers."""

    def __init__(self, bank: Bank, scratch: StagingBuffers, reserve: int) -> None:
        super().__init__(reserve)
        self._bank, self._scratch, self._rest = bank, scratch, Buffers()
        scratch.enter(bank)

    @property
    def bytes(self) -> int:
        """Bytes of the buffers, the bank's included."""
        return self.unbanked_bytes + self._bank.bytes

    @property
    def unbanked_bytes(self) -> int:
        """Bytes of the buffers without the bank's, including the layer's staging slot."""
        return super().bytes + self._rest.bytes + self._scratch.bytes(self._bank)

    @property
    def held_bytes(self) -> int:
        """Bytes of the entries held."""
        return super().held_bytes + self._rest.held_bytes + self.bank_bytes

    @property
    def bank_bytes(self) -> int:
        """Bytes of keys and values in the bank."""
        return self._bank.held_bytes

    @property
    def staging_bytes(self) -> int:
        """Bytes of all staging slots."""
        return self._scratch.room_bytes

    @property
    def states(self) -> tuple[Tensor, ...]:
        """Return keys and values on the device: views, as valid as those of `held`."""
        return self.held[:2]

    @property
    def metadata(self) -> tuple[Tensor, ...]:
        """Return tags and places: views, valid until the next change."""
        return self._filled()

    @property
    def metadata_widths(self) -> tuple[int, ...]:
        """Return the widths of tags and places; empty before the first entry."""
        return tuple(part.shape[-1] for part in self._whole)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """Return the entries on the device: views, valid until the next change or another layer takes the slot."""
        banked, rest = self._bank.length, self._rest.held
        if not banked:
            return (*rest, *self.metadata)
        half = self._scratch.hold(self._bank, self.length)
        for whole, part in zip(half.room, rest, strict=True):
            whole[:, :, half.right : self.length] = part[:, :, half.right - banked : self.length - banked]
        half.right = self.length
        return (*(whole[:, :, : self.length] for whole in half.room), *self.metadata)

    def prefetch_next(self) -> None:
        """Prefetch the next layer's bank while this layer computes."""
        self._scratch.prefetch_after(self._bank)

    def append(self, parts: Sequence[Tensor]) -> None:
        """Add entries to the rest: (batch, heads or 1, n, width) each."""
        self._trim()
        self._rest.append(parts[:2])
        super().append([part.expand(-1, parts[0].shape[1], -1, -1) for part in parts[2:]])

    def append_step(self, states: Sequence[Tensor], metadata: Metadata) -> None:
        """Add decoded tokens like any others."""
        self.append([*states, *joined_metadata([metadata], states[0].device)])

    def assign(self, parts: Sequence[Tensor], banked: int = 0) -> None:
        """Replace the entries, the first `banked` of them in the bank, where writing starts at the first change. They
        share no memory with the current entries.
        """
        if self.metadata and len(parts[0]) != len(self.metadata[0]):
            self.clear()
        keys_values, bank = parts[:2], self._bank
        same = self._unchanged([part[:, :, :banked] for part in keys_values])
        self._scratch.forget(bank, same)
        bank.drop_last(bank.length - same)
        if same < banked:
            bank.append([part[:, :, same:banked] for part in keys_values])
        self._rest.clear()  # a layer without the slot reserves no room for a chunk
        self._rest.assign([part[:, :, banked:].clone(memory_format=torch.contiguous_format) for part in keys_values])
        super().assign(parts[2:])

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries."""
        super().drop_last(entries)
        self._trim()

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the batch of every tensor."""
        super().map_rows(change)
        self._rest.map_rows(change)
        self._bank.map_rows(change)
        self._scratch.forget(self._bank)

    def clear(self) -> None:
        """Drop all entries and buffers."""
        super().clear()
        self._rest.clear()
        self._bank.clear()
        self._scratch.forget(self._bank)

    def _unchanged(self, parts: Sequence[Tensor]) -> int:
        """Count the leading entries that are unchanged in the bank and staged on the device."""
        right, room = self._scratch.known(self._bank)
        length = min(right, self._bank.length, parts[0].shape[2])
        same = torch.ones(length, dtype=torch.bool, device=parts[0].device)
        for whole, part in zip(room, parts, strict=False):
            same &= (whole[:, :, :length] == part[:, :, :length]).all(dim=-1).flatten(0, 1).all(dim=0)
        return int(same.int().cumprod(0).sum())

    def _trim(self) -> None:
        """Drop entries beyond the length, such as those of an interrupted `append`."""
        self._bank.drop_last(max(0, self._bank.length - self.length))
        self._rest.length = self.length - self._bank.length
        self._scratch.forget(self._bank, self.length)


class BankedLayer(CompressedLayer):
    """A layer with a bank. As attributes, `keys` and `values` are copies on the layer's device."""

    _buffers: BankedBuffers

    def __init__(self, buffers: BankedBuffers, banked: Callable[[Entries], int], rows: Sequence[RowState]) -> None:
        """Make an empty layer.

        Args:
            buffers: empty buffers.
            banked: number of a layer's leading entries that go into the bank, see `Compressor.banked`.
            rows: state of each row before the first pass.
        """
        super().__init__(rows=rows)
        self._buffers, self._banked = buffers, banked

    @property
    def keys(self) -> Any:
        """Copies of the keys of all entries, (batch, kv_heads, entries, head_dim); None before the first."""
        return self._copy(0)

    @keys.setter
    def keys(self, _: Any) -> None:
        """Ignore the None that the stock layer assigns first: the buffers hold the keys."""

    @property
    def values(self) -> Any:
        """Copies of the values of all entries, as for keys."""
        return self._copy(1)

    @values.setter
    def values(self, _: Any) -> None:
        """Ignore the assignment, as for keys."""

    @property
    def staging_bytes(self) -> int:
        """Bytes of the staging buffers of the cache, on all devices."""
        return self._buffers.staging_bytes

    def keep(self, plan: EvictionPlan) -> None:
        """Apply an eviction plan to copies, since the bank may change."""
        self.replace(plan.of(self.entries(Context())), plan.rows)

    def _copy(self, part: int) -> Tensor | None:
        return None if self.tags is None else self._buffers.held[part].clone()

    def _show(self) -> None:
        self.device, self.is_initialized = self._buffers.metadata[0].device, True

    def _present(self) -> tuple[Tensor, Tensor]:
        keys, values = self._buffers.states
        return keys, values

    def _assign(self, entries: Entries, rows: Sequence[RowState]) -> None:
        grids = rows[0].grids
        newest = grids[max(grids)] if grids else None
        banked = self._banked(replace(entries, context=replace(entries.context, grid=newest)))
        self._buffers.assign([entries.keys, entries.values, entries.tags, entries.places], banked)
