"""Make a CUDA build of torchvision importable beside a CPU build of torch."""

from __future__ import annotations

from functools import cache

import torch


def repair_torchvision() -> None:
    """Make `import torchvision` succeed where only its compiled operators are missing; otherwise do nothing.

    Beside a CPU torch, torchvision's compiled library does not load, and its import then fails on two operators that it
    describes to torch without having defined them. HuggingFace's video processors use neither.

    Raises:
        RuntimeError: torchvision fails for another reason.
    """
    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _missing_operators()
        import torchvision  # noqa: F401


@cache
def _missing_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # the definitions live as long as this object
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
