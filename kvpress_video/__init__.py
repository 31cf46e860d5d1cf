"""Training-free KV-cache compression for video, on any HuggingFace multimodal LLM."""

from .ask import Answer, ask
from .ask_all import ask_all
from .budget import Budget
from .bundled import load_bundled
from .compression import Compression, Report, compress
from .compressor import Compressor, top
from .conversation import Turn
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
from .patch import patch
from .prompt import prepare
from .selection import select
from .session import VideoSession
from .session_stats import SessionStats
from .shared_prefill import SharedPrefill
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
    "SessionStats",
    "SharedPrefill",
    "Turn",
    "UnknownNameError",
    "UnsupportedModelError",
    "Video",
    "VideoError",
    "VideoSession",
    "ask",
    "ask_all",
    "compress",
    "load",
    "load_bundled",
    "patch",
    "prepare",
    "read_video",
    "select",
    "top",
]
