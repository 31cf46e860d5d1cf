"""Layers whose older entries are offloaded to the host or to disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..compressor.entries import Entries
from ..errors import unknown_name
from .banked_layer import BankedBuffers, BankedLayer
from .forward_pass import RowState
from .layer import CompressedLayer
from .offload import DiskStorage, HostStorage, OffloadStorage
from .staging import StagingBuffers

_KINDS: dict[str, type[OffloadStorage]] = {"cpu": HostStorage, "disk": DiskStorage}
BANKS = ("device", *_KINDS)


class OffloadedLayer(BankedLayer):
    """A layer with its bank off the device."""

    @property
    def bank_bytes(self) -> int:
        """Bytes of keys and values in the bank."""
        return self._buffers.bank_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffers on the layer's device, including its staging slot."""
        return self._buffers.unbanked_bytes

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values and prefetch the next layer's bank."""
        held = super().update(key_states, value_states, *args, **kwargs)
        self._buffers.prefetch_next()
        return held


def make_layers(
    bank: str, count: int, reserve: int, rows: Sequence[RowState], banked: Callable[[Entries], int]
) -> list[CompressedLayer]:
    """Make the empty layers of one cache.

    Args:
        bank: `"device"`, `"cpu"` or `"disk"`.
        count: number of layers.
        reserve: entries to reserve space for with the first one.
        rows: state of each row before the first pass.
        banked: number of a layer's leading entries that go into the bank, see `Compressor.banked`.

    Raises:
        UnknownNameError: unknown bank.
    """
    if bank not in BANKS:
        raise unknown_name("place of the bank", bank, BANKS)
    if bank not in _KINDS:
        return [CompressedLayer(reserve, rows) for _ in range(count)]
    scratch = StagingBuffers(reserve)
    return [OffloadedLayer(BankedBuffers(_KINDS[bank](), scratch, reserve), banked, rows) for _ in range(count)]
