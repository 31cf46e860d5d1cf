"""Loading of models and processors from a folder, the HuggingFace hub or this package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnknownNameError, unknown_name
from ..utils.model_names import BUNDLED_FOLDERS, BUNDLED_NAMES, DTYPES, check_bundled, check_setting
from ..utils.named_settings import parse
from .devices import check_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def load(
    path_or_name: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a multimodal model, in eval mode, and its processor.

    Args:
        path_or_name: a folder with a checkpoint, or a name on the HuggingFace hub.
        device: device of the model; by default CUDA if available, otherwise the CPU.
        dtype: dtype of the weights; that of the checkpoint by default.
        attention: transformers' attention implementation: `"sdpa"`, `"eager"`, `"flash_attention_2"`.
        device_map: placement of a large model on several devices, as in transformers; excludes `device`.

    Raises:
        UnknownNameError: there is no such checkpoint, device, dtype or attention, the checkpoint is damaged or not a
            multimodal model, or both `device` and `device_map` are given.
    """
    if device is not None and device_map is not None:
        raise UnknownNameError(f"Give either device={device!r} or device_map={device_map!r}, not both.")
    if device is not None:
        check_device(device)
    check_dtype(dtype)
    check_folder(path_or_name)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name = str(path_or_name)
    try:
        processor = AutoProcessor.from_pretrained(name)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype or "auto", attn_implementation=attention, device_map=device_map
        )
    except Exception as error:
        explained = isinstance(error, (OSError, ValueError, ImportError))
        reason = str(error) if explained else f"{type(error).__name__}: {error}"
        raise UnknownNameError(f"Cannot load a multimodal model from {name!r}: {reason}") from error
    if device_map is None:
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    frames: Any = getattr(processor, "video_processor", None)
    if getattr(frames, "cap_pixels_per_frame", True) is None:
        frames.cap_pixels_per_frame = False  # transformers' default, without its warning
    return model.eval(), processor


def check_dtype(dtype: torch.dtype | str | None) -> None:
    """Check a dtype of weights: None and `"auto"` are the checkpoint's.

    Raises:
        UnknownNameError: it is no floating-point dtype of torch.
    """
    if dtype is None or (isinstance(dtype, str) and dtype in DTYPES):
        return
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise unknown_name("dtype", str(dtype), DTYPES)


def check_folder(path_or_name: str | Path) -> None:
    """Reject a mistyped path before the hub is queried for a model of that name.

    Raises:
        UnknownNameError: the name is a path without a checkpoint, or longer than any.
    """
    path, text = Path(path_or_name).expanduser(), str(path_or_name)
    try:
        there = path.exists()
    except OSError as error:
        raise UnknownNameError(f"{text!r:.80} cannot be looked up as a folder: {error.strerror}.") from error
    if there:
        if not (path / "config.json").is_file():
            raise UnknownNameError(f"{path} holds no checkpoint: it has no config.json.")
    elif isinstance(path_or_name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise UnknownNameError(f"There is no model folder {path}: check the path.")


def load_named(name: str, **how: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a model by name, in eval mode, and its processor.

    Args:
        name: `"bundled"`, another name in `BUNDLED_NAMES`, a folder, or a name on the HuggingFace hub.
        **how: keyword arguments of `load`.

    Raises:
        UnknownNameError: there is no such model.
    """
    check_bundled(name)
    return load(bundled_path(BUNDLED_NAMES[name]) if name in BUNDLED_NAMES else name, **how)


def load_model(text: str, device: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load the model that a grid names: `"bundled"`, or a folder or hub name with `":dtype=bfloat16,…"`.

    Args:
        text: the name, and settings among `MODEL_SETTINGS`.
        device: device of the model unless its settings place it.

    Raises:
        UnknownNameError: there is no such model or setting.
    """
    name, settings = parse(text)
    for setting in settings:
        check_setting(setting)
    if "device_map" not in settings:
        settings = {"device": device, **settings}
    return load_named(name, **settings)


def load_bundled(
    name: str = "qwen2_5_vl",
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a bundled model of under 3 million parameters, in eval mode, and its processor.

    It only answers questions about clips of `kvpress_video.benchmarks.world`, or, with the name `"rooms"`, of
    `kvpress_video.benchmarks.rooms`.

    Args:
        name: `"qwen2_5_vl"`; `"qwen3_vl"`, of that family, which also answers questions about time; or `"rooms"`, a
            Qwen2.5-VL.
        device: device of the model; by default CUDA if available, otherwise the CPU.
        dtype: dtype of the weights; that of the checkpoint by default.
        attention: transformers' attention implementation.
        device_map: see `load`; excludes `device`.

    Raises:
        UnknownNameError: there is no such bundled model, or the installation lacks its files.
    """
    return load(bundled_path(name), device=device, dtype=dtype, attention=attention, device_map=device_map)


def bundled_path(name: str = "qwen2_5_vl") -> Path:
    """Return the folder of a bundled model, for `from_pretrained` of transformers.

    Args:
        name: as in `load_bundled`.

    Raises:
        UnknownNameError: there is no such bundled model.
    """
    if name not in BUNDLED_FOLDERS:
        raise unknown_name("bundled model", name, BUNDLED_FOLDERS)
    return Path(str(files("kvpress_video"))) / "data" / BUNDLED_FOLDERS[name]
