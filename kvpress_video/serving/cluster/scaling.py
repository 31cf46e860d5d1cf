"""How many replicas there are: as many as the sessions in memory need."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ...errors import UnknownNameError

_USUAL_TARGET = 16


@dataclass(frozen=True)
class Scale:
    """Limits of autoscaling.

    Attributes:
        least, most: replicas.
        target: sessions in memory that a replica should have.
        up, down: seconds for which more or fewer replicas must be wanted.
    """

    least: int = 1
    most: int = 1
    target: int = _USUAL_TARGET
    up: float = 5.0
    down: float = 300.0

    @classmethod
    def parse(cls, replicas: str, target: int | None = None) -> Scale:
        """Read a number of replicas, such as `2`, or limits, such as `1:4`.

        Raises:
            UnknownNameError: it is neither.
        """
        found = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", replicas)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise UnknownNameError(f"--replicas is a number such as 2, or limits such as 1:4, not {replicas!r}.")
        if target is not None and least == most:
            raise UnknownNameError("--sessions-per-replica needs limits to scale between, such as --replicas 1:4.")
        return cls(least, most, target or _USUAL_TARGET)


def by_sessions(context: Any) -> tuple[int, dict[str, Any]]:
    """The policy of autoscaling: all replicas together should have their target of sessions in memory.

    Args:
        context: `AutoscalingContext` of Ray Serve; `load` is what replicas record.

    Returns:
        How many replicas are wanted, which Ray Serve keeps within its limits, and no state.
    """
    loads = (context.aggregated_metrics or {}).get("load", {})
    return math.ceil(round(sum(loads.values()), 6)), {}
