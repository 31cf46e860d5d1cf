"""Checked arguments of a session."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

from ..budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET, Budget, BudgetLike
from ..cache.quantization import QuantizeLike, canonical
from ..cache.storage import Storage, storage_of
from ..compressor.base import Compressor
from ..compressor.registry import make_method
from ..errors import BudgetError, check_choice
from ..models.base import Adapter
from ..prefill.options import Labels, Positions, check_budget, usual_chunk
from ..utils.numbers import is_whole
from .turn_eviction import KeepTurns

LARGEST_CHUNK = 2**31 - 1
"""Largest chunk in visual tokens: token indices are int32."""
_UNCAPPED_CHUNK = 2048  # visual tokens


@dataclass(frozen=True)
class SessionConfig:
    """The arguments of `VideoSession`, where they are documented; method settings are in `settings`.

    Raises:
        BudgetError: a budget is missing or caps nothing, or a number is out of range.
        UnknownNameError: unknown method, setting, positions or labels.
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
    labels: Labels
    keep_turns: KeepTurns
    quantize: QuantizeLike
    experts: int | None
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        for what, choice in (("positions", Positions), ("labels", Labels)):
            check_choice(what, getattr(self, what), choice)
        if self.make_method().uneven and self.bank_on != "device":
            raise BudgetError(
                f"{self.method!r} makes heads differ, which no bank on {self.bank_on!r} supports: leave out bank_on, "
                "or choose a method whose heads keep equal numbers."
            )
        if self.budget is None and self.method != UNCOMPRESSED:
            raise BudgetError(f"{self.method!r} needs a budget, such as 6144 (visual entries) or '256MiB'.")
        if self.budget is not None and self.method == UNCOMPRESSED:
            raise BudgetError(f"{UNCOMPRESSED!r} keeps everything: leave the budget out, or choose another method.")
        check_budget(self.make_method(), self.cap)
        for name, least in (("chunk", 1), ("position_limit", 1), ("text_room", 0)):
            value = getattr(self, name)
            if value is not None and not is_whole(value):
                raise BudgetError(f"{name} must be a whole number, got {value!r}.")
            if value is not None and value < least:
                raise BudgetError(f"{name} must be at least {least}, got {value}.")
        if self.keep_turns != "all" and (not is_whole(self.keep_turns) or self.keep_turns < 0):
            raise BudgetError(f"keep_turns must be 'all' or a whole number from 0 on, got {self.keep_turns!r:.80}.")
        if self.chunk is not None and self.chunk > LARGEST_CHUNK:
            raise BudgetError(f"chunk must be at most {LARGEST_CHUNK} visual tokens, got {self.chunk}.")
        if not isinstance(self.fps, Real) or not 0 < self.fps < math.inf:
            raise BudgetError(f"fps must be a number above zero, got {self.fps!r}.")

    @property
    def cap(self) -> Budget:
        """The budget; 100% without one."""
        return Budget.parse(UNCOMPRESSED_BUDGET) if self.budget is None else Budget.parse_cap(self.budget)

    @property
    def reserved_text(self) -> int | None:
        """Text entries kept free within a budget of bytes; None if text is not counted."""
        return self.text_room if self.cap.unit == "bytes" else None

    @property
    def storage(self) -> Storage:
        """How keys and values are stored."""
        return storage_of(self.quantize, self.bank_on)

    def make_method(self) -> Compressor:
        """Create the method with its settings."""
        return make_method(self.method, **self.settings)

    def chunk_for(self, adapter: Adapter) -> int:
        """Return the chunk size in visual tokens."""
        if self.chunk is not None:
            return self.chunk
        if self.budget is None:
            return _UNCAPPED_CHUNK
        compact = self.positions == "compact"
        return min(usual_chunk(self.cap, adapter, compact, self.text_room, self.storage), LARGEST_CHUNK)

    def resolved(self, adapter: Adapter) -> SessionConfig:
        """Replace defaults by their values, so that another machine or version creates the same session."""
        budget = None if self.budget is None else self.cap.exact
        return replace(self, budget=budget, chunk=self.chunk_for(adapter), quantize=canonical(self.quantize))

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `VideoSession`, including the settings of the method."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "settings"}
        return named | dict(self.settings)
