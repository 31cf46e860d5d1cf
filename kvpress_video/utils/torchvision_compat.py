"""Make a torchvision built for another torch importable, such as PyPI's CUDA build with a CPU torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing, and repairs torchvision right before it is imported for the first time."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            repair_torchvision()
        return None


def repair_when_imported() -> None:
    """Call `repair_torchvision` directly before the first import of torchvision, and import nothing until then."""
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


def repair_torchvision() -> None:
    """Make a later `import torchvision` succeed if only its compiled operators are missing.

    The compiled library of torchvision does not load with a torch of another build, and its import then fails on two
    operators that it describes to torch without having defined them. HuggingFace's video processors use neither.
    Nothing is imported, and nothing is done if torchvision is absent, loaded, or of torch's own build.
    """
    import torch

    if "torchvision" in sys.modules:
        return
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    if _build(folder) != torch.__version__.partition("+")[2] and not _loads(folder):
        _missing_operators()


def _build(folder: Path) -> str:
    """The build of an installed torchvision, such as `"cu130"`; empty if it states none."""
    try:
        stated = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"^__version__ = ['\"][^'\"+]*\+([^'\"]*)", stated, re.MULTILINE)
    return found[1] if found else ""


def _loads(folder: Path) -> bool:
    """Whether the compiled library loads, which defines the operators."""
    import torch

    for library in [*folder.glob("_C.*so"), *folder.glob("_C.*pyd")]:
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


@cache
def _missing_operators() -> Library:
    from torch.library import Library

    library = Library("torchvision", "DEF")  # the definitions live as long as this object
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
