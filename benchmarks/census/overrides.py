"""Configuration overrides per model type for tiny models; `...` removes an entry."""

from __future__ import annotations

from typing import Any


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}


_AXIAL = {"text_config": {"rope_parameters": _rope(2, 1, 1, partial_rotary_factor=0.5)}}
_PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
_TOKENS = {"vocabulary_map": {"<image>": 450, "<|extra_200|>": 451, "<|image start|>": 452, "IMGIMGA": 453}}
_FULL = {"text_config": {"sliding_window": None}}
_MARKS = {"vision_start_token_id": 501, "vision_end_token_id": 502}
_MEDIA = {"image_token_id": 503, "video_token_id": 504}

PARTS: dict[str, dict[str, Any]] = {
    "gemma4": {"vision_config": {}},
    "gemma4_unified": {"vision_config": {}},
}
"""Sub-configurations that default to None."""

OVERRIDES: dict[str, dict[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {64: 16}},
    "blip-2": {"image_token_index": 450, "num_query_tokens": 12},
    "instructblip": {"image_token_index": 450, "num_query_tokens": 12},
    "instructblipvideo": {"video_token_index": 450, "num_query_tokens": 12},
    "chameleon": _TOKENS,
    "emu3": _TOKENS,
    "cohere_compass": {
        "text_config": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _PLAIN)}
    },
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense"] + ["sparse"] * 5}},
    "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": _rope(3, 3, 2)}},
    "glm5_next": {"text_config": {"num_key_value_heads": 4, "qk_rope_head_dim": 0}},
    "hunyuan_vl": {"text_config": {"head_dim": 16}},
    "llava_next": {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]},
    "llama4": {"text_config": {"no_rope_layers": ..., "moe_layers": ...}},
    "mistral_large4": {"text_config": {"kv_source_layers": ...}},
    "muse_spark": {"vision_config": {"num_hidden_layers": 4}},
    "glm4v": _AXIAL,
    "glm4v_moe": _AXIAL,
    "glm46v": _AXIAL,
    "glm_ocr": _AXIAL,
    "glmga": _AXIAL,
    "idefics2": _FULL,
    "kimi_k25": {"vision_config": {"projection_hidden_size": 64}},
    "lfm2_vl": {"text_config": {"layer_types": ["conv", "full_attention"] * 3}},
    "minimax_m3_vl": {"text_config": {"layer_types": ["full_attention"] * 3 + ["minimax_m3_sparse"] * 3}},
    "mistral3": _FULL,
    "minicpm_ocr": _MEDIA,
    "minicpmv4_6": _MEDIA,
    "minicpmv4_7": _MEDIA,
    "molmo2": {
        "adapter_config": {"vision_feature_layer": [0, 1]},
        "image_patch_id": 503,
        "vision_config": {"image_size": [32, 32], "num_position_embeddings": 64},
    },
    "nemotron_h_omni": _MEDIA,
    "paddleocr_vl": {"text_config": {"rope_parameters": _rope(4, 2, 2)}},
    "qwen2_5_omni_thinker": _MARKS | {"text_config": {"rope_parameters": _rope(4, 2, 2)}},
    "qwen3_omni_moe_thinker": _MARKS | {"text_config": {"rope_parameters": _rope(4, 2, 2)}},
    "shieldgemma2": {"mm_tokens_per_image": 16},
    "vipllava": {"vision_feature_layers": [-1, -2]},
}
