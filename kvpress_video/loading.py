"""Load a model and its processor from a folder or from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import UnknownNameError
from .torchvision_repair import repair_torchvision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def load(
    path_or_name: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    tp_plan: str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A multimodal model in eval mode, and its processor.

    Args:
        path_or_name: a folder with a checkpoint, or a name on the HuggingFace hub.
        device: where to put the model; a CUDA device if there is one, else the CPU.
        dtype: of the weights; the checkpoint's own by default.
        attention: transformers' attention implementation: `"sdpa"`, `"eager"`, `"flash_attention_2"`.
        device_map: spread a large model over devices, as in transformers; instead of `device`.
        tp_plan: `"auto"` for tensor parallelism under `torchrun`, as in transformers; instead of both.

    Raises:
        UnknownNameError: there is no such checkpoint, or it is not one of a multimodal model.
    """
    placed = {"device": device, "device_map": device_map, "tp_plan": tp_plan}
    given = [f"{name}={value!r}" for name, value in placed.items() if value is not None]
    if len(given) > 1:
        raise UnknownNameError(f"Give one of {' and '.join(given)}, not both.")
    check_folder(path_or_name)
    repair_torchvision()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name = str(path_or_name)
    try:
        processor = AutoProcessor.from_pretrained(name)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype or "auto", attn_implementation=attention, device_map=device_map, tp_plan=tp_plan
        )
    except (OSError, ValueError) as error:
        raise UnknownNameError(f"Cannot load a multimodal model from {name!r}: {error}") from error
    if device_map is None and tp_plan is None:
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval(), processor


def check_folder(path_or_name: str | Path) -> None:
    """Tell a mistyped path at once, before the hub is asked for a model of that name.

    Raises:
        UnknownNameError: it is a path, and there is no checkpoint.
    """
    path, text = Path(path_or_name).expanduser(), str(path_or_name)
    if path.exists():
        if not (path / "config.json").is_file():
            raise UnknownNameError(f"{path} holds no checkpoint: there is no config.json in it.")
    elif isinstance(path_or_name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise UnknownNameError(f"There is no model folder {path}: check the path.")
