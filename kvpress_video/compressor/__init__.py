"""The interface of a compression method, and all that a method needs to import."""

from .base import Compressor, Kept, check_observer, top
from .entries import Context, Entries, Grid, Kind, Places, Queries, Tags, segment_entries
from .selection import select

__all__ = [
    "Compressor",
    "Context",
    "Entries",
    "Grid",
    "Kept",
    "Kind",
    "Places",
    "Queries",
    "Tags",
    "check_observer",
    "segment_entries",
    "select",
    "top",
]
