"""The public interface for compression methods: everything that a method needs to import."""

from .attention_call import AttentionCall
from .base import FIDELITIES, Compressor, Kept
from .declarations import check_observer
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
from .listing import MethodInfo, list_methods, method_card
from .ranking import top
from .registry import make_method
from .rope import Rope
from .routing import OneVote, Routing
from .selection import select

__all__ = [
    "FIDELITIES",
    "AttentionCall",
    "Compressor",
    "Context",
    "Entries",
    "Grid",
    "Kept",
    "Kind",
    "LayerScores",
    "MethodInfo",
    "OneVote",
    "Places",
    "Queries",
    "Rope",
    "Routing",
    "Tags",
    "check_observer",
    "grid_tags",
    "is_visual",
    "list_methods",
    "make_method",
    "method_card",
    "segment_entries",
    "select",
    "top",
]
