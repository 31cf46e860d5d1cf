"""Entry points of installed packages, this one and third parties alike, and the packages behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from ..errors import unknown_name
from .warnings import warn_caller

_OWN = "kvpress-video"


@dataclass(frozen=True)
class EntryPoints:
    """The entry points of a group, one per name; looking them up imports none.

    If two packages declare a name, that of this package is used, or else that of the alphabetically first package; a
    warning names both.

    Attributes:
        group: name of the group.
        what: noun for one of its members, for messages.
        listing: command that lists all members; empty if there is none.
    """

    group: str
    what: str
    listing: str = ""

    def found(self) -> dict[str, EntryPoint]:
        """Return the entry points by name."""
        return installed(self.group)

    def get(self, name: str) -> EntryPoint:
        """Return an entry point.

        Raises:
            UnknownNameError: no installed package declares the name; the nearest one is suggested.
        """
        points = self.found()
        if name not in points:
            raise unknown_name(self.what, name, points, self.listing)
        return points[name]


METHODS = EntryPoints("kvpress_video.methods", "method", listing="kvpress-video methods")
BENCHMARKS = EntryPoints("kvpress_video.benchmarks", "benchmark")


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Find the entry points of a group, one for each name."""
    chosen: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (not is_own(point), package_of(point))):
        used = chosen.setdefault(point.name, point)
        if used.value != point.value:
            warn_caller(
                f"{package_of(used)} and {package_of(point)} both declare {point.name!r} in the entry points "
                f"{group!r}: {used.value} is used, {point.value} is not. Rename the latter."
            )
    return chosen


def package_of(point: EntryPoint) -> str:
    """Name the package that declares an entry point."""
    name = _distribution(point)
    return f"package {name}" if name else "an unnamed package"


def is_own(point: EntryPoint) -> bool:
    """Whether this package declares an entry point itself."""
    return re.sub(r"[-_.]+", "-", _distribution(point)).lower() == _OWN


def _distribution(point: EntryPoint) -> str:
    return getattr(getattr(point, "dist", None), "name", None) or ""
