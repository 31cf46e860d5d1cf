"""Settings of quantised keys and values, under the names that transformers uses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

from ..errors import CacheError, UnsupportedModelError
from ..utils.named_settings import parse, spell
from ..utils.numbers import is_whole

QuantizeLike: TypeAlias = "Quantization | int | str | None"
NBITS = (2, 4, 8)
UNQUANTIZED = "none"


@dataclass(frozen=True)
class Quantization:
    """Settings of quantised keys and values, as in transformers' `QuantizedCache`.

    Attributes:
        nbits: bits of a number: 2, 4 or 8.
        q_group_size: consecutive entries of a channel, for keys, and consecutive channels of an entry, for values, that
            share a scale; heads with fewer channels have one group of values.
        residual_length: newest entries of each layer that stay unquantised.
    """

    nbits: int = 4
    q_group_size: int = 32
    residual_length: int = 32

    def __post_init__(self) -> None:
        for field, least in (("nbits", 1), ("q_group_size", 1), ("residual_length", 0)):
            value = getattr(self, field)
            if not is_whole(value) or value < least:
                raise CacheError(f"{field} must be a whole number from {least} on, got {value!r:.80}.")
        if self.nbits not in NBITS:
            raise CacheError(f"Keys and values can be quantised to 2, 4 or 8 bits, not {self.nbits}.")

    @classmethod
    def parse(cls, value: QuantizeLike) -> Quantization | None:
        """Parse the settings.

        Args:
            value: the number of bits, `4` or `"4"`, with settings `"4:residual_length=128"`, or a `Quantization`; None
                or `"none"` for none.

        Raises:
            CacheError: the value is none of these, or out of range.
        """
        if value is None or isinstance(value, Quantization):
            return value
        name, settings = parse(value) if isinstance(value, str) else (value, {})
        if name == UNQUANTIZED and not settings:
            return None
        known = {field.name for field in fields(cls)} - {"nbits"}
        bits = int(name) if isinstance(name, str) and name.isdecimal() else name
        if not is_whole(bits) or not settings.keys() <= known:
            raise CacheError(
                f"Cannot read quantize={value!r:.80}: write 8, 4 or 2 (bits), '4:residual_length=128', or 'none'."
            )
        return cls(int(bits), **settings)

    def __str__(self) -> str:
        default = Quantization(self.nbits)
        names = [field.name for field in fields(self)]
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}
        return spell(str(self.nbits), changed)

    def packed(self, length: int) -> int:
        """Return the number of quantised entries of a layer: whole groups of the older ones."""
        return max(0, length - self.residual_length) // self.q_group_size * self.q_group_size

    @property
    def most_recent(self) -> int:
        """Maximum number of unquantised entries of a layer between passes."""
        return self.residual_length + self.q_group_size - 1

    def value_group(self, width: int) -> int:
        """Return the channels of a value of `width` that share a scale."""
        return min(self.q_group_size, width)

    def bytes(self, width: int, itemsize: int) -> int:
        """Return the bytes of a quantised entry of one head, codes and scales, rounded up.

        Args:
            width: channels of a key or value.
            itemsize: bytes of an unquantised number.
        """
        ranges = 2 * itemsize * (width // self.value_group(width))
        return 2 * width * self.nbits // 8 + -(-3 * width // self.q_group_size) + ranges

    def check_width(self, width: int) -> None:
        """Check that keys and values of `width` channels can be quantised.

        Raises:
            UnsupportedModelError: they cannot.
        """
        if width % self.value_group(width):
            raise UnsupportedModelError(
                f"Values of {width} channels do not divide into groups of {self.q_group_size}: choose a q_group_size "
                f"that divides {width}, such as quantize='{self.nbits}:q_group_size={_divisor(width)}'."
            )
        if width * self.nbits % 8:
            raise UnsupportedModelError(
                f"{width} channels of {self.nbits} bits do not fill whole bytes: choose more bits, such as quantize=8."
            )


def _divisor(width: int) -> int:
    """Return the largest divisor of a width up to 32."""
    return next(size for size in range(min(32, width), 0, -1) if width % size == 0)


def canonical(value: QuantizeLike) -> str:
    """Write settings as text; `"none"` for none.

    Raises:
        CacheError: they cannot be read.
    """
    return str(Quantization.parse(value) or UNQUANTIZED)
