"""Training-free KV-cache compression for video, on any HuggingFace multimodal LLM."""

from .budget import Budget
from .compression import Compression, Report, compress
from .compressor import Compressor, top
from .entries import Entries
from .errors import (
    BudgetError,
    CacheError,
    KVPressVideoError,
    MissingInputError,
    UnknownNameError,
    UnsupportedModelError,
    VideoError,
)
from .selection import select

__all__ = [
    "Budget",
    "BudgetError",
    "CacheError",
    "Compression",
    "Compressor",
    "Entries",
    "KVPressVideoError",
    "MissingInputError",
    "Report",
    "UnknownNameError",
    "UnsupportedModelError",
    "VideoError",
    "compress",
    "select",
    "top",
]
