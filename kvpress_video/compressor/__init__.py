"""The public interface for compression methods: everything that a method needs to import."""

from .base import Compressor, Kept, check_observer, top
from .entries import (
    Context,
    Entries,
    Grid,
    Kind,
    LayerScores,
    Places,
    Queries,
    Tags,
    grid_tags,
    is_visual,
    segment_entries,
)
from .registry import make_method
from .selection import select

__all__ = [
    "Compressor",
    "Context",
    "Entries",
    "Grid",
    "Kept",
    "Kind",
    "LayerScores",
    "Places",
    "Queries",
    "Tags",
    "check_observer",
    "grid_tags",
    "is_visual",
    "make_method",
    "segment_entries",
    "select",
    "top",
]
