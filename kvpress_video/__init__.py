"""Training-free KV-cache compression for video, on any HuggingFace multimodal LLM."""

from .ask import Answer, ask
from .budget import Budget
from .bundled import load_bundled
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
from .loading import load
from .prompt import prepare
from .selection import select
from .video import Video, read_video

__all__ = [
    "Answer",
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
    "Video",
    "VideoError",
    "ask",
    "compress",
    "load",
    "load_bundled",
    "prepare",
    "read_video",
    "select",
    "top",
]
