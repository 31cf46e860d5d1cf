"""Banks: host or disk storage for the older entries of a cache layer."""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import CacheError
from ..utils.formatting import format_bytes
from .buffers import Buffers


class CopyStream:
    """Copies between the host and a device, made synchronously."""

    def copy(self, room: Sequence[Tensor], parts: Sequence[Tensor]) -> Callable[[], None]:
        """Copy tensors (batch, heads, n, width) from the host to the device or back.

        Heads are copied one at a time: each is contiguous on both sides, so that a device can access pinned memory
            directly.

        Returns:
            A function to call before the device reads them.
        """
        for whole, part in zip(room, parts, strict=True):
            alone = whole.is_pinned() or part.is_pinned()
            for to, given in zip(_heads(whole), _heads(part), strict=True):
                to.copy_(given, non_blocking=alone)
        return self.finish

    def finish(self) -> None:
        """Wait for all copies."""


class CudaCopyStream(CopyStream):
    """Asynchronous copies on a CUDA side stream, concurrent with the device's computation."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def copy(self, room: Sequence[Tensor], parts: Sequence[Tensor]) -> Callable[[], None]:
        """Copy on the side stream, after everything queued on the device so far."""
        self._stream.wait_stream(self._computing)
        with torch.cuda.stream(self._stream):
            super().copy(room, parts)
        for tensor in (*room, *parts):
            if tensor.is_cuda:
                tensor.record_stream(self._stream)  # its memory is not reused before the copies are made
        made = self._stream.record_event()
        return lambda: self._computing.wait_event(made)

    @property
    def _computing(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._stream.device)

    def finish(self) -> None:
        """Wait for all copies."""
        self._stream.synchronize()


@functools.cache
def copy_stream(device: torch.device) -> CopyStream:
    """Return the copy stream of a device, shared by all its caches."""
    return CudaCopyStream(device) if device.type == "cuda" else CopyStream()


def _heads(states: Tensor) -> list[Tensor]:
    """Return the (n, width) matrix of each row and head."""
    return [head for row in states.unbind() for head in row.unbind()]


class OffloadStorage(Buffers):
    """Keys and values on the host, (batch, kv_heads, capacity, head_dim) each.

    Attributes:
        device: device of the entries, where they are read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")

    @property
    def like(self) -> Sequence[Tensor]:
        """Return tensors with the shapes and dtypes of the entries read."""
        return self.held

    def append(self, parts: Sequence[Tensor]) -> None:
        """Add keys and values from the device, (batch, kv_heads, n, head_dim) each."""
        self.device = parts[0].device
        super().append(parts)

    def read(self, start: int, room: Sequence[Tensor]) -> Callable[[], None]:
        """Copy all entries from `start` on to the device.

        Returns:
            A function to call before the device reads it.
        """
        return copy_stream(self.device).copy(room, [part[:, :, start:] for part in self.held])

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the batch of both tensors."""
        copy_stream(self.device).finish()
        changed = [change(part) for part in self.held if self.length]
        self._whole = tuple(self._empty(part, part.shape) for part in changed)
        for whole, part in zip(self._whole, changed, strict=True):
            whole.copy_(part)

    def _move(self, like: Sequence[Tensor], capacity: int) -> None:
        copy_stream(self.device).finish()
        super()._move(like, capacity)

    def _write(self, parts: Sequence[Tensor], end: int) -> None:
        copy_stream(self.device).copy([whole[:, :, self.length : end] for whole in self._whole], parts)


class HostStorage(OffloadStorage):
    """Storage in host memory, pinned if there is a CUDA device."""

    def _empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(shape, dtype=like.dtype, pin_memory=torch.cuda.is_available())


class DiskStorage(OffloadStorage):
    """Storage in unlinked temporary files, which disappear with the last process that uses them, however it ends."""

    def _empty(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        try:
            with tempfile.NamedTemporaryFile(prefix="kvpress-video-bank-") as file, torch.inference_mode(False):
                os.posix_fallocate(file.fileno(), 0, size * like.element_size())
                return torch.from_file(file.name, shared=True, size=size, dtype=like.dtype).view(shape)
        except (OSError, RuntimeError) as error:
            missing = format_bytes(size * like.element_size(), "MiB")
            raise CacheError(
                f"The bank cannot have {missing} more on disk: {error}. Make room, "
                "set TMPDIR to a folder that has it, or keep the bank in memory with bank_on='cpu'."
            ) from error
