"""Training-free KV-cache compression for video, on any HuggingFace multimodal LLM.

Names are imported when they are first used: importing the package alone loads neither torch nor transformers.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .utils.torchvision_compat import repair_when_imported

if TYPE_CHECKING:
    from .budget import Budget
    from .cache.quantization import Quantization
    from .compression import Compression, Report, compress
    from .compressor.base import Compressor
    from .compressor.entries import Entries
    from .compressor.listing import MethodInfo, list_methods
    from .compressor.ranking import top
    from .compressor.selection import select
    from .contract.check import MethodReport, check_method
    from .errors import (
        BenchmarkError,
        BudgetError,
        CacheError,
        KVPressVideoError,
        MethodError,
        MissingInputError,
        QuestionError,
        SweepError,
        UnknownNameError,
        UnsupportedModelError,
        VideoError,
    )
    from .integrations.kvpress import from_kvpress
    from .models.loading import bundled_path, load, load_bundled
    from .prefill.shared import SharedPrefill
    from .question import Answer, ask
    from .self_check.inspection import Inspection, inspect
    from .serving.patch import patch
    from .streaming.batch import ask_all
    from .streaming.conversation import Turn
    from .streaming.session import VideoSession
    from .streaming.stats import SessionStats
    from .sweep.grid.spec import make_grid
    from .sweep.grid.yaml_file import read_grid
    from .sweep.run.sweep import run_sweep
    from .video.prompt import prepare
    from .video.reader import Video, read_video

    __version__: str

_MODULES = {
    "budget": ("Budget",),
    "cache.quantization": ("Quantization",),
    "compression": ("Compression", "Report", "compress"),
    "compressor.base": ("Compressor",),
    "compressor.ranking": ("top",),
    "compressor.entries": ("Entries",),
    "compressor.listing": ("MethodInfo", "list_methods"),
    "compressor.selection": ("select",),
    "contract.check": ("MethodReport", "check_method"),
    "errors": (
        "BenchmarkError",
        "BudgetError",
        "CacheError",
        "KVPressVideoError",
        "MethodError",
        "MissingInputError",
        "QuestionError",
        "SweepError",
        "UnknownNameError",
        "UnsupportedModelError",
        "VideoError",
    ),
    "integrations.kvpress": ("from_kvpress",),
    "models.loading": ("bundled_path", "load", "load_bundled"),
    "prefill.shared": ("SharedPrefill",),
    "question": ("Answer", "ask"),
    "self_check.inspection": ("Inspection", "inspect"),
    "serving.patch": ("patch",),
    "streaming.batch": ("ask_all",),
    "streaming.conversation": ("Turn",),
    "streaming.session": ("VideoSession",),
    "streaming.stats": ("SessionStats",),
    "sweep.grid.spec": ("make_grid",),
    "sweep.grid.yaml_file": ("read_grid",),
    "sweep.run.sweep": ("run_sweep",),
    "video.prompt": ("prepare",),
    "video.reader": ("Video", "read_video"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answer",
    "BenchmarkError",
    "Budget",
    "BudgetError",
    "CacheError",
    "Compression",
    "Compressor",
    "Entries",
    "Inspection",
    "KVPressVideoError",
    "MethodError",
    "MethodInfo",
    "MethodReport",
    "MissingInputError",
    "Quantization",
    "QuestionError",
    "Report",
    "SessionStats",
    "SharedPrefill",
    "SweepError",
    "Turn",
    "UnknownNameError",
    "UnsupportedModelError",
    "Video",
    "VideoError",
    "VideoSession",
    "__version__",
    "ask",
    "ask_all",
    "bundled_path",
    "check_method",
    "compress",
    "from_kvpress",
    "inspect",
    "list_methods",
    "load",
    "load_bundled",
    "make_grid",
    "patch",
    "prepare",
    "read_grid",
    "read_video",
    "run_sweep",
    "select",
    "top",
]


def __getattr__(name: str) -> Any:
    """Import a public name, or one of the package's own modules, when it is first used."""
    if name == "__version__":
        found = version("kvpress-video")
    elif name in _HOME:
        found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in {module.partition(".")[0] for module in _MODULES}:
        return import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


repair_when_imported()
