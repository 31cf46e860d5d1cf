"""What a session is made with, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from ..budget import Budget, BudgetLike
from ..compressor.base import Compressor
from ..compressor.registry import UNCOMPRESSED, UNCOMPRESSED_BUDGET, make_method
from ..errors import BudgetError, unknown_name
from ..models.base import Adapter
from ..prefill.options import Positions, usual_chunk

_UNCAPPED_CHUNK = 2048  # visual tokens


@dataclass(frozen=True)
class SessionConfig:
    """The arguments of `VideoSession`, which says what they mean.

    Raises:
        BudgetError: there is no budget, it caps nothing, or a number is out of range.
        UnknownNameError: unknown method, setting or positions.
    """

    method: str | Compressor
    budget: BudgetLike | None
    positions: Positions
    chunk: int | None
    fps: float
    system: str | None
    text_room: int
    position_limit: int | None
    bank_on: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.positions not in (known := get_args(Positions)):
            raise unknown_name("positions", self.positions, known)
        self.make_method()
        if self.budget is None and self.method != UNCOMPRESSED:
            raise BudgetError(f"{self.method!r} needs a budget, such as 6144 (visual entries) or '256MiB'.")
        if self.budget is not None and self.method == UNCOMPRESSED:
            raise BudgetError(f"{UNCOMPRESSED!r} keeps everything: leave the budget out, or choose another method.")
        if self.budget is not None and self.cap.unit == "ratio":
            raise BudgetError(
                f"{self.cap} of an endless stream caps nothing: give a number of visual entries, or bytes."
            )
        for name, least in (("chunk", 1), ("position_limit", 1), ("text_room", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BudgetError(f"{name} must be at least {least}, got {value}.")
        if not 0 < self.fps < math.inf:
            raise BudgetError(f"fps must be a number above zero, got {self.fps}.")

    @property
    def cap(self) -> Budget:
        """The budget; 100% where there is none."""
        return Budget.parse(UNCOMPRESSED_BUDGET if self.budget is None else self.budget)

    @property
    def room(self) -> int | None:
        """Text entries that a budget of bytes is kept free for; None where text comes on top."""
        return self.text_room if self.cap.unit == "bytes" else None

    def make_method(self) -> Compressor:
        """The method with its settings."""
        return make_method(self.method, **self.settings)

    def chunk_for(self, adapter: Adapter) -> int:
        """Visual tokens worked through at once."""
        if self.chunk is not None:
            return self.chunk
        if self.budget is None:
            return _UNCAPPED_CHUNK
        return usual_chunk(self.cap, adapter, self.positions == "compact")

    @property
    def facts(self) -> dict[str, Any]:
        """Arguments that make the same session again, in what JSON can hold unless the method is an object."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)[:-1]}
        return plain | {"budget": None if self.budget is None else self.cap.exact} | dict(self.settings)
