"""Training-free KV-cache compression for video, on any HuggingFace multimodal LLM."""

from .budget import Budget
from .compression import Compression, Report, compress
from .compressor.base import Compressor, top
from .compressor.entries import Entries
from .compressor.selection import select
from .errors import (
    BudgetError,
    CacheError,
    KVPressVideoError,
    MethodError,
    MissingInputError,
    UnknownNameError,
    UnsupportedModelError,
    VideoError,
)
from .models.loading import load, load_bundled
from .prefill.shared import SharedPrefill
from .question import Answer, ask
from .serving.patch import patch
from .streaming.batch import ask_all
from .streaming.conversation import Turn
from .streaming.session import VideoSession
from .streaming.stats import SessionStats
from .utils.torchvision_compat import repair_torchvision
from .video.prompt import prepare
from .video.reader import Video, read_video

__all__ = [
    "Answer",
    "Budget",
    "BudgetError",
    "CacheError",
    "Compression",
    "Compressor",
    "Entries",
    "KVPressVideoError",
    "MethodError",
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

repair_torchvision()
