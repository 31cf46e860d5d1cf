"""Read safetensors files tensor by tensor, without mapping them: truncating a mapped file kills its reader (SIGBUS)."""

from __future__ import annotations

import math
import os
from typing import Annotated, BinaryIO, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ..errors import CacheError
from ..models.fingerprint import bytes_of

_HEADER_LIMIT = 100_000_000  # bytes, defined by the format
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

Size = Annotated[int, Field(ge=0)]


class _TensorHeader(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: str
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


class _Header(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, _TensorHeader]

    metadata: dict[str, str] = Field(alias="__metadata__", default_factory=dict)


class DamagedError(CacheError):
    """A damaged file; the message continues its name."""


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorFile:
    """The tensors of an open file, read one at a time.

    Attributes:
        metadata: text by name.
        specs: shape and dtype of each tensor by name.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read the header and compare it with the size of the file.

        Raises:
            CacheError: this is not a safetensors file, or it is truncated or damaged; the message continues a file's
                name.
        """
        self._file, size = file, os.fstat(file.fileno()).st_size
        start = file.read(9)
        if len(start) < 9:
            raise DamagedError(f"is cut off after {len(start)} bytes" if start else "is empty")
        if start[8:] != b"{":
            raise CacheError(
                f"is not a session's file, it begins with {start!r}: give one that VideoSession.save() wrote"
            )
        length = int.from_bytes(start[:8], "little")
        if length > min(size - 8, _HEADER_LIMIT):
            raise _damaged(f"its header takes {length} of {size} bytes")
        try:
            header = _Header.model_validate_json(start[8:] + file.read(length - 1))
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise _damaged(f"its header cannot be read: {reason}") from error
        self.metadata = header.metadata
        self.specs: dict[str, TensorSpec] = {}
        self._starts: dict[str, int] = {}
        end = 0
        for name, tensor in sorted(header.__pydantic_extra__.items(), key=lambda item: item[1].data_offsets):
            dtype = _DTYPES.get(tensor.dtype)
            taken = math.prod(tensor.shape) * (dtype.itemsize if dtype else 0)
            if dtype is None or tensor.data_offsets != (end, end + taken):
                raise _damaged(f"{name}, {tensor.dtype} {tensor.shape}, cannot lie at bytes {tensor.data_offsets}")
            self.specs[name], self._starts[name] = TensorSpec(tensor.shape, dtype), 8 + length + end
            end += taken
        if size != 8 + length + end:
            raise _damaged(f"it has {size} bytes and should have {8 + length + end}")

    def read(self, name: str) -> Tensor:
        """Read a tensor into new memory.

        Raises:
            CacheError: the file was truncated meanwhile.
        """
        tensor = torch.empty(self.specs[name].shape, dtype=self.specs[name].dtype)
        self._file.seek(self._starts[name])
        room = bytes_of(tensor)
        if self._file.readinto(room) != len(room):  # type: ignore[attr-defined]
            raise _damaged(f"it ended while {name} was read")
        return tensor


def _damaged(reason: str) -> DamagedError:
    return DamagedError(f"is cut off or damaged ({reason})")
