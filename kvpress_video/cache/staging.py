"""Staging buffers: device memory from which attention reads banked layers, shared in turn by all layers of a cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

HALVES = 2
"""Staging slots on a device where one layer is read while another computes."""


class Stageable(Protocol):
    """Entries that are read into a slot."""

    @property
    def length(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where they are read."""

    @property
    def like(self) -> Sequence[Tensor]:
        """Tensors (batch, kv_heads, …, head_dim) with the dtypes of the entries read."""

    def read(self, start: int, room: Sequence[Tensor]) -> Callable[[], None]:
        """Copy everything from entry `start` on into `room`.

        Returns:
            Call it before the device reads it.
        """


def staging_room(length: int) -> int:
    """Return the most entries that a slot has room for once it held `length`: it grows by more than it needs."""
    return length + length // 8


class Slot:
    """Room on a device for the keys and values of one layer.

    Attributes:
        bank: bank of the layer in the slot.
        right: how many of the layer's leading entries are in it, or on their way.
        settle: call it before the device reads them.
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

    With two, the bank of the next layer is copied into one while a layer computes on the other.
    """

    def __init__(self, reserve: int, slots: int = HALVES) -> None:
        """Make empty slots.

        Args:
            reserve: minimum capacity of a slot in entries.
            slots: how many on each device.
        """
        self._reserve = reserve
        self._halves: dict[torch.device, list[Slot]] = defaultdict(  # used last comes last
            lambda: [Slot() for _ in range(slots)]
        )
        self._banks: list[Stageable] = []

    def enter(self, bank: Stageable) -> None:
        """Take in the bank of one more layer."""
        self._banks.append(bank)

    def hold(self, bank: Stageable, length: int) -> Slot:
        """A half that the bank's entries are in, with room for `length`; the caller may fill it up."""
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
        """Return how many leading entries of a bank's layer are staged, and the buffers that hold them."""
        half = self._found(bank)
        if half is None or not half.right:
            return 0, ()
        half.settle()
        return half.right, half.room

    def forget(self, bank: Stageable, start: int = 0) -> None:
        """Entries of a bank's layer changed, from `start` on."""
        half = self._found(bank)
        if half is not None:
            half.right = min(half.right, start)

    def bytes(self, bank: Stageable) -> int:
        """Bytes of the half that a bank's layer is in."""
        half = self._found(bank)
        return half.bytes if half else 0

    @property
    def room_bytes(self) -> int:
        """Bytes of all halves."""
        return sum(half.bytes for halves in self._halves.values() for half in halves)

    def _found(self, bank: Stageable) -> Slot | None:
        return next((half for half in self._halves[bank.device] if half.bank is bank), None)
