"""Model families: one adapter class per family, found by `config.model_type`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import UnsupportedModelError
from .base import Adapter
from .gemma3 import Gemma3
from .internvl import InternVL
from .llava import LlavaNextVideo, LlavaOneVision
from .qwen3_5 import Qwen35
from .qwen3_vl import Qwen3VL
from .qwen_vl import QwenVL
from .smolvlm import SmolVLM
from .video_llama_3 import VideoLlama3
from .wrappers import unwrapped

ADAPTERS: tuple[type[Adapter], ...] = (
    *(QwenVL, Qwen3VL, Qwen35, LlavaOneVision, LlavaNextVideo, InternVL, SmolVLM, Gemma3, VideoLlama3),
)
_BY_TYPE = {model_type: adapter for adapter in ADAPTERS for model_type in adapter.model_types}


def adapter_for(model: Any) -> Adapter:
    """Make the adapter for a model, which PEFT or `torch.compile` may have wrapped.

    Raises:
        UnsupportedModelError: not a transformers model, no adapter for its family (the message lists what the model
            lacks), no language-model head, layers of a type that cannot be compressed, or a wrapper that changes
            prompts.
    """
    given, model = model, unwrapped(model)
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UnsupportedModelError(f"Expected a loaded transformers model, got {type(model).__name__}.")
    model_type = getattr(model.config, "model_type", None)
    if model_type in _BY_TYPE:
        if not hasattr(model, "generate"):
            raise UnsupportedModelError(
                f"{type(model).__name__} has no language-model head: load {model_type!r} with "
                "AutoModelForImageTextToText and pass that."
            )
        adapter = _BY_TYPE[model_type](model, given)
        kinds = set(adapter.layer_kinds) - {"full_attention"} - adapter.left_alone
        if kinds:
            raise UnsupportedModelError(
                f"{type(model).__name__} has layers of {', '.join(sorted(kinds))}, which cannot be compressed: "
                "load it with use_sliding_window=False."
            )
        return adapter
    base = getattr(model, "base_model", model)
    missing = [
        what
        for what, present in (
            ("a video input (get_video_features)", hasattr(base, "get_video_features")),
            ("a decoder (get_decoder)", hasattr(model, "get_decoder")),
            ("a video placeholder (config.video_token_id)", hasattr(model.config, "video_token_id")),
        )
        if not present
    ]
    reason = f"it lacks {', '.join(missing)}" if missing else "no adapter describes the layout of its visual tokens"
    raise UnsupportedModelError(
        f"Model type {model_type!r} ({type(model).__name__}) is not supported: {reason}. "
        f"Supported: {', '.join(sorted(_BY_TYPE))}."
    )
