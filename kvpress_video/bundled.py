"""The small trained model that comes with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import torch

from .loading import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

BUNDLED = "bundled"


def load_named(name: str, **how: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a name stands for: `"bundled"`, a folder, or a name on the hub.

    Args:
        name: the model.
        **how: as in `load`.

    Raises:
        UnknownNameError: there is no such model.
    """
    return load_bundled(**how) if name == BUNDLED else load(name, **how)


def load_bundled(
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The bundled Qwen2.5-VL of a few million parameters, in eval mode, and its processor.

    It answers questions about the clips of `kvpress_video.benchmarks.world`, and nothing else.

    Args:
        device: where to put the model; a CUDA device if there is one, else the CPU.
        dtype: of the weights; the checkpoint's own by default.
        attention: transformers' attention implementation.
        device_map: as in `load`, instead of `device`.

    Raises:
        UnknownNameError: this installation comes without the model's files.
    """
    with as_file(files("kvpress_video") / "data" / "bundled") as folder:
        return load(folder, device=device, dtype=dtype, attention=attention, device_map=device_map)
