"""Keys and values as integers of 2, 4 or 8 bits, packed into bytes: the layout of KIVI (arXiv 2402.02750).

Keys are quantised per channel in groups along the sequence, values per token in groups of channels. An evicted entry
shifts every key group after it, so keys are quantised repeatedly. To keep errors from accumulating, the steps of a key
group are powers of two: their grids are nested, and a key keeps its value on every grid at least as fine as its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_OFFSETS = 32767  # int16
_EXPONENTS = -126, 127  # of normal fp32 numbers


class PackedKeys(NamedTuple):
    """Keys in groups of consecutive entries.

    Attributes:
        codes: (batch, heads, n, width·nbits/8) uint8.
        exponents: log2 of the step of each group and channel, (batch, heads, groups, width) int8.
        offsets: the lowest multiple of the step, (batch, heads, groups, width) int16.
    """

    codes: Tensor
    exponents: Tensor
    offsets: Tensor


class PackedValues(NamedTuple):
    """Values in groups of consecutive channels.

    Attributes:
        codes: (batch, heads, n, width·nbits/8) uint8.
        ranges: lowest and highest value of each group, (batch, heads, n, 2·groups) in the dtype of the values.
    """

    codes: Tensor
    ranges: Tensor


def pack_keys(keys: Tensor, nbits: int, group: int) -> PackedKeys:
    """Quantise keys (batch, heads, n, width), n a multiple of `group`."""
    batch, heads, length, width = keys.shape
    grouped = keys.float().view(batch, heads, length // group, group, width)
    low, high = grouped.aminmax(dim=3, keepdim=True)
    largest = torch.maximum(low.abs(), high.abs())
    exponents = torch.maximum(_log2_ceil((high - low) / _top(nbits)), _log2_ceil(largest / _OFFSETS))
    step = _power_of_two(exponents)
    offsets = (low / step).round()
    codes = ((grouped / step).round() - offsets).clamp(0, _top(nbits)).to(torch.uint8)
    packed = _packed(codes.view(batch, heads, length, width), nbits)
    return PackedKeys(packed, exponents.to(torch.int8).squeeze(3), offsets.to(torch.int16).squeeze(3))


def unpack_keys(packed: PackedKeys, nbits: int, group: int, dtype: torch.dtype) -> Tensor:
    """Return the keys, (batch, heads, n, width)."""
    codes = _unpacked(packed.codes, nbits)
    batch, heads, length, width = codes.shape
    grouped = codes.view(batch, heads, length // group, group, width) + packed.offsets.int()[:, :, :, None]
    keys = grouped * _power_of_two(packed.exponents.int())[:, :, :, None]
    return keys.view(batch, heads, length, width).to(dtype)


def pack_values(values: Tensor, nbits: int, group: int) -> PackedValues:
    """Quantise values (batch, heads, n, width), width a multiple of `group`. Repacking unpacked values is lossless,
    since the lowest and highest value are exact.
    """
    grouped = values.unflatten(-1, (-1, group))
    low, high = grouped.aminmax(dim=-1, keepdim=True)
    step = (high.float() - low.float()) / _top(nbits)
    codes = ((grouped.float() - low.float()) / step).nan_to_num(0, 0, 0).round().clamp(0, _top(nbits))
    packed = _packed(codes.to(torch.uint8).flatten(-2), nbits)
    return PackedValues(packed, torch.cat([low.squeeze(-1), high.squeeze(-1)], dim=-1))


def unpack_values(packed: PackedValues, nbits: int, group: int) -> Tensor:
    """Return the values, (batch, heads, n, width)."""
    codes = _unpacked(packed.codes, nbits).unflatten(-1, (-1, group))
    low, high = packed.ranges.unflatten(-1, (2, -1)).unsqueeze(-1).unbind(-3)
    step = (high.float() - low.float()) / _top(nbits)
    between = (low.float() + codes * step).to(low.dtype)
    return torch.where(codes == _top(nbits), high, between).flatten(-2)


def _top(nbits: int) -> int:
    """The highest code."""
    return 2**nbits - 1


def _packed(codes: Tensor, nbits: int) -> Tensor:
    """Pack codes (…, width) uint8 into bytes (…, width·nbits/8), the first in the lowest bits."""
    each = 8 // nbits
    shifts = torch.arange(0, 8, nbits, dtype=torch.uint8, device=codes.device)
    return (codes.unflatten(-1, (-1, each)) << shifts).sum(dim=-1, dtype=torch.uint8)


def _unpacked(packed: Tensor, nbits: int) -> Tensor:
    """Return the codes, (…, width) uint8."""
    shifts = torch.arange(0, 8, nbits, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & _top(nbits)).flatten(-2)


def _log2_ceil(numbers: Tensor) -> Tensor:
    """Return the exponents of the smallest powers of two not below non-negative fp32 numbers, int32."""
    mantissa, exponent = torch.frexp(numbers)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.where(numbers > 0, exponent, _EXPONENTS[0]).clamp(*_EXPONENTS)


def _power_of_two(exponents: Tensor) -> Tensor:
    """Return 2 to the power of int32 exponents, fp32, exactly."""
    return ((exponents + 127) << 23).view(torch.float32)
