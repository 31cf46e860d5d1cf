"""Model families: one adapter class per family, found by `config.model_type`, and one for all others."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import UnsupportedModelError
from .base import Adapter
from .findings import Findings, findings_of
from .gemma3 import Gemma3
from .general import General
from .internvl import InternVL
from .llava import LlavaNextVideo, LlavaOneVision
from .qwen3_5 import Qwen35
from .qwen3_vl import Qwen3VL
from .qwen_vl import QwenVL
from .smolvlm import SmolVLM
from .text_layers import CannotServe
from .video_llama_3 import VideoLlama3
from .wrappers import unwrapped

ADAPTERS: tuple[type[Adapter], ...] = (
    *(QwenVL, Qwen3VL, Qwen35, LlavaOneVision, LlavaNextVideo, InternVL, SmolVLM, Gemma3, VideoLlama3),
)
_BY_TYPE = {model_type: adapter for adapter in ADAPTERS for model_type in adapter.model_types}


def has_dedicated_adapter(model: Any) -> bool:
    """Whether the family of an unwrapped model has a dedicated adapter."""
    return getattr(getattr(model, "config", None), "model_type", None) in _BY_TYPE


def adapter_for(model: Any) -> Adapter:
    """Make the adapter for a model, which PEFT or `torch.compile` may have wrapped.

    Models without a dedicated adapter get the general adapter once they have passed the self-check.

    Raises:
        UnsupportedModelError: not a transformers model, an unchecked or unsupported model, no language-model head,
            layers of an unsupported type, or a wrapper that changes prompts.
    """
    given, model = model, unwrapped(model)
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or config is None:
        raise UnsupportedModelError(f"Expected a loaded transformers model, got {type(model).__name__}.")
    if not has_dedicated_adapter(model):
        findings = findings_of(model)
        adapter = general_adapter(model, given, findings)
        if findings is None:
            raise unsupported(model, "it has not been checked yet: call kvpress_video.inspect(model)")
        return adapter
    if not hasattr(model, "generate"):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no language-model head: load {config.model_type!r} with "
            "AutoModelForImageTextToText and pass that."
        )
    own = _BY_TYPE[config.model_type](model, given)
    kinds = set(own.layer_kinds) - {"full_attention"} - own.left_alone
    if kinds:
        raise UnsupportedModelError(
            f"{type(model).__name__} has layers of {', '.join(sorted(kinds))}, which cannot be compressed: "
            "load it with use_sliding_window=False."
        )
    return own


def general_adapter(model: Any, given: Any = None, findings: Findings | None = None) -> General:
    """Make the general adapter, for a model of any family.

    Args:
        model: a transformers model.
        given: the wrapper around it, if there is one.
        findings: results of the self-check; None while it runs.

    Raises:
        UnsupportedModelError: the model has unsupported parts.
    """
    try:
        return General(model, given, findings)
    except CannotServe as error:
        raise unsupported(model, str(error)) from error


def unsupported(model: Any, reason: str) -> UnsupportedModelError:
    """Build the error for an unsupported model without a dedicated adapter."""
    model_type = getattr(model.config, "model_type", None)
    return UnsupportedModelError(
        f"Model type {model_type!r} ({type(model).__name__}) is not supported: it has no dedicated adapter, and "
        f"{reason}. Supported: {', '.join(sorted(_BY_TYPE))}, and other models that pass the self-check."
    )
