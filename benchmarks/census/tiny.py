"""Tiny random models of every registered image-text-to-text type, from the defaults of its configuration class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from .overrides import OVERRIDES, PARTS

_VOCABULARY, _HIDDEN, _HEADS, _HEAD = 512, 64, 4, 16
_SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size", "vocab_size_per_layer_input"), _VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "out_hidden_size", "projection_dim"), _HIDDEN),
    **dict.fromkeys(("text_hidden_size", "vision_hidden_size", "encoder_hidden_size", "proj_hidden_size"), _HIDDEN),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "ffn_dim", "mlp_dim"), 96),
    **dict.fromkeys(("shared_expert_intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("projector_hidden_size", "merger_hidden_size"), _HIDDEN),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim"), _HEAD),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("patch_size",), 4),
    **dict.fromkeys(("image_size",), 32),
    **dict.fromkeys(("base_channels", "latent_channels"), 32),
    **dict.fromkeys(("sliding_window",), 20),
    **dict.fromkeys(("window_size",), 16),
    **dict.fromkeys(("max_position_embeddings",), 4096),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("qk_rope_head_dim",), 8),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("hidden_size_per_layer_input",), 16),
}
_LAYERS = ("num_hidden_layers", "depth", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
_DERIVED = ("layer_types", "mlp_layer_types", "kv_sharing_modes", "per_layer_config", "id2label", "label2id", "dtype")
_DEPTH = {"text": 6, "vision": 2}


def registered_types() -> list[str]:
    """Return the image-text-to-text model types of the installed transformers."""
    return list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def tiny_config(model_type: str) -> Any:
    """Make the configuration of a type with all sizes small."""
    kind = CONFIG_MAPPING[model_type]
    tokens = iter(range(_VOCABULARY - 64, _VOCABULARY))
    return kind(
        **_merged(
            dict(_small(kind(**PARTS.get(model_type, {})).to_dict(), "text", tokens)), OVERRIDES.get(model_type, {})
        )
    )


def tiny_model(model_type: str, attention: str | None = None) -> PreTrainedModel:
    """Build a tiny random model in eval mode, with weights that preserve the scale of activations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = getattr(transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type])
        model: Any = cls._from_config(tiny_config(model_type), attn_implementation=attention)
        _randomize(model)
    return model.eval()


@torch.no_grad()
def _randomize(model: Any) -> None:
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.ndim <= 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        else:
            parameter.normal_(std=max(prod(parameter.shape[-1 if parameter.ndim == 3 else 1 :]), 1) ** -0.5)


def _small(settings: Mapping[str, Any], part: str, tokens: Iterator[int]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if name in _DERIVED or value is None or name in ("transformers_version", "architectures", "_name_or_path"):
            continue
        if isinstance(value, Mapping) and (name.endswith("_config") or "model_type" in value):
            inner = part if "text" in name or "decoder" in name or "language" in name else "vision"
            yield name, dict(_small(value, inner, tokens))
        elif (name.endswith(("token_id", "token_index")) and isinstance(value, int)) or name == "eos_token_id":
            yield name, next(tokens)
        elif name in _LAYERS:
            yield name, _DEPTH[part]
        elif name in _SIZES and isinstance(value, int):
            yield name, _SIZES[name]
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, Mapping):
            yield name, _rope(value)
        else:
            yield name, value


def _rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {
        name: _rope(value) if isinstance(value, Mapping) else value for name, value in settings.items()
    }
    sections = changed.get("mrope_section")
    if sections:
        half = int(_HEAD * changed.get("partial_rotary_factor", 1.0)) // 2
        first = half // len(sections)
        changed["mrope_section"] = [half - first * (len(sections) - 1), *[first] * (len(sections) - 1)]
    return changed


def _merged(settings: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in more.items():
        known = settings.get(name)
        if value is ...:
            settings.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(known, dict):
            settings[name] = _merged(known, value)
        else:
            settings[name] = value
    return settings
