"""Staging buffers: device memory from which attention reads banked layers, shared by all layers of a cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

HALVES = 2
"""Number of staging slots on a device if one layer is prefetched while another computes."""


class Stageable(Protocol):
    """Entries that can be read into a slot."""

    @property
    def length(self) -> int:
        """Number of entries."""

    @property
    def device(self) -> torch.device:
        """Device where they are read."""

    @property
    def like(self) -> Sequence[Tensor]:
        """Tensors (batch, kv_heads, …, head_dim) with the dtypes of the entries read."""

    def read(self, start: int, room: Sequence[Tensor]) -> Callable[[], None]:
        """Copy all entries from `start` on into `room`.

        Returns:
            A function to call before the device reads it.
        """


def staging_room(length: int) -> int:
    """Return the maximum capacity of a slot that has held `length` entries: it grows by more than needed."""
    return length + length // 8


class Slot:
    """Room on a device for the keys and values of one layer.

    Attributes:
        bank: bank of the layer in the slot.
        right: number of the layer's leading entries that are in it or being copied.
        settle: function to call before the device reads them.
        room: (batch, kv_heads, capacity, head_dim) each.
    """

    def __init__(self) -> None:
        self.bank: Stageable | None = None
        self.right = 0
        self.room: tuple[Tensor, ...] = ()
        self.settle: Callable[[], None] = lambda: None

    @property
    def bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(part.numel() * part.element_size() for part in self.room)

    def fetch(self, bank: Stageable, length: int, reserve: int) -> None:
        """Copy a bank's entries into the slot, with a capacity of `length` entries."""
        fits = self.room and all(
            (have.dtype, have.shape[:2], have.shape[3:]) == (part.dtype, part.shape[:2], part.shape[3:])
            and have.shape[2] >= length
            for have, part in zip(self.room, bank.like, strict=True)
        )
        if not fits:
            self.room, self.bank = (), None
            capacity = max(staging_room(length), reserve)
            with torch.inference_mode(False):
                self.room = tuple(
                    torch.empty((*part.shape[:2], capacity, part.shape[3]), dtype=part.dtype, device=bank.device)
                    for part in bank.like
                )
        if self.bank is not bank:
            self.bank, self.right = bank, 0
        if self.right < bank.length:
            self.settle = bank.read(self.right, [part[:, :, self.right : bank.length] for part in self.room])
            self.right = bank.length


class StagingBuffers:
    """Staging slots on each device, used in turn by all layers that have a bank.

    With two slots, the next layer's bank is copied into one while a layer computes on the other.
    """

    def __init__(self, reserve: int, slots: int = HALVES) -> None:
        """Make empty slots.

        Args:
            reserve: minimum capacity of a slot in entries.
            slots: number of slots per device.
        """
        self._reserve = reserve
        self._halves: dict[torch.device, list[Slot]] = defaultdict(  # the last used slot comes last
            lambda: [Slot() for _ in range(slots)]
        )
        self._banks: list[Stageable] = []

    def enter(self, bank: Stageable) -> None:
        """Add the bank of a layer."""
        self._banks.append(bank)

    def hold(self, bank: Stageable, length: int) -> Slot:
        """Return a slot that holds the bank's entries, with room for `length`; the caller may fill it."""
        halves = self._halves[bank.device]
        half = self._found(bank) or halves[0]
        half.fetch(bank, length, self._reserve)
        half.settle()
        halves.sort(key=lambda other: other is half)
        return half

    def prefetch_after(self, bank: Stageable) -> None:
        """Prefetch the bank of the layer after this one; the first follows the last."""
        following = self._banks[(self._banks.index(bank) + 1) % len(self._banks)]
        if following.length:
            half = self._found(following) or self._halves[following.device][0]
            half.fetch(following, following.length, self._reserve)

    def known(self, bank: Stageable) -> tuple[int, Sequence[Tensor]]:
        """Return the number of staged leading entries of a bank's layer, and their buffers."""
        half = self._found(bank)
        if half is None or not half.right:
            return 0, ()
        half.settle()
        return half.right, half.room

    def forget(self, bank: Stageable, start: int = 0) -> None:
        """Invalidate the entries of a bank's layer from `start` on."""
        half = self._found(bank)
        if half is not None:
            half.right = min(half.right, start)

    def bytes(self, bank: Stageable) -> int:
        """Bytes of the slot of a bank's layer."""
        half = self._found(bank)
        return half.bytes if half else 0

    @property
    def room_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(half.bytes for halves in self._halves.values() for half in halves)

    def _found(self, bank: Stageable) -> Slot | None:
        return next((half for half in self._halves[bank.device] if half.bank is bank), None)
