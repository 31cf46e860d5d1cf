"""Configuration overrides per model type for tiny models; `...` removes an entry."""

from __future__ import annotations

from typing import Any

import transformers

_ROPE = "rope_scaling" if transformers.__version__.startswith("4.") else "rope_parameters"


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}


_AXIAL = {"text_config": {_ROPE: _rope(2, 1, 1, partial_rotary_factor=0.5), "partial_rotary_factor": 0.5}}


def _codes(template: str) -> dict[str, int]:
    """Return a vocabulary with eight tokens for picture codes."""
    marks = {"<image>": 450, "<|extra_200|>": 451, "<|image start|>": 452}
    return marks | {template.format(code=code, letter=chr(ord("A") + code)): 460 + code for code in range(8)}


_QUERIES = {"num_query_tokens": 12, "text_config": {"word_embed_proj_dim": 64}}
_SHARED = {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 3}
_FULL = {"text_config": {"sliding_window": None}}
_MARKS = {"vision_start_token_id": 501, "vision_end_token_id": 502}
_MEDIA = {"image_token_id": 503, "video_token_id": 504}

PARTS: dict[str, dict[str, Any]] = {
    "diffusion_gemma": {"vision_config": {}},
    "gemma4": {"vision_config": {}},
    "gemma4_unified": {"vision_config": {}},
    "granite4_vision": {"text_config": {}},
    "vision-encoder-decoder": {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}},
}
"""Sub-configurations that default to None or to those of another family."""

OVERRIDES: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "image_token_offset": 480,
        "audio_token_offset": 488,
        "vision_config": {"codebook_size": 8},
        "audio_config": {"codebook_size": 8, "codebook_dim": 64},
    },
    "aria": {"projector_patch_to_query_dict": {64: 16}},
    "blip-2": _QUERIES | {"image_token_index": 450},
    "instructblip": _QUERIES | {"image_token_index": 450},
    "instructblipvideo": _QUERIES | {"video_token_index": 450},
    "chameleon": {"vocabulary_map": _codes("IMGIMG{letter}Z"), "vq_config": {"num_embeddings": 8}},
    "emu3": {
        "vocabulary_map": _codes("<|visual token {code:06}|>"),
        "vq_config": {"codebook_size": 8, "base_channels": 32, "hidden_size": 128},
    },
    "cohere_compass": {
        "text_config": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _rope(3, 3, 2))}
    },
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense"] + ["sparse"] * 5, "num_experts_per_tok": 2},
        "vision_config": {"sam_config": {"downsample_channels": [64, 64], "output_channels": 32}},
    },
    "deepseek_vl_hybrid": {"high_res_vision_config": {"global_attn_indexes": [0, 1]}},
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 96}},
    "dots3_note": {
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
        "text_config": {"num_key_value_heads": 4},
        "vision_config": {"mlp_layer_types": ["dense"] * 2, "adapter_in_dim": 64, "adapter_out_dim": 64},
    },
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": _rope(3, 3, 2)}},
    "fast_vlm": {
        "vision_config": {
            "architecture": "fastvit_t8",
            "model_args": {"inference_mode": True, "layers": [1] * 4, "embed_dims": [16, 16, 32, 32]},
        },
    },
    "gemma4": {"text_config": _SHARED | {"use_bidirectional_attention": "vision"}},
    "gemma4_unified": {"text_config": _SHARED},
    "gemma3n": {
        "text_config": {
            "intermediate_size": 96,
            "activation_sparsity_pattern": [0.0] * 6,
            **_SHARED,
        },
        "vision_config": {"architecture": "test_efficientnet", "hidden_size": 256, "model_args": {}},
        "vision_soft_tokens_per_image": 49,
    },
    "glm5_next": {"text_config": {"num_key_value_heads": 4, "qk_rope_head_dim": 0}},
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 0], [1, 2]],
        "spatial_target_layers": [3, 4],
        "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]],
        "vision_config": {"model_type": "siglip_vision_model"},  # the tower of the released model: no class token
        "vision_feature_select_strategy": "full",
    },
    "granite_docling": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "hy_v4_vl": {"text_config": {"rope_parameters": _rope(2, 1, 1)}},
    "hunyuan_vl": {"text_config": {"head_dim": 16, "rope_parameters": _rope(2, 2, 2, 2)}},
    "llava_next": {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]},
    "llama4": {
        "text_config": {"no_rope_layers": ..., "moe_layers": ..., "attention_chunk_size": 16},
        "vision_config": {
            "intermediate_size": 256,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
            "vision_output_dim": 64,
        },
    },
    "mistral_large4": {"text_config": {"kv_source_layers": ...}},
    "muse_glimmer": {"out_hidden_size": 256},
    "muse_spark": {"out_hidden_size": 256, "audio_config": {"num_hidden_layers": 4, "hidden_sizes": [16] * 4}},
    "glm4v": _AXIAL,
    "glm4v_moe": _AXIAL,
    "glm46v": _AXIAL,
    "glm_ocr": _AXIAL,
    "glmga": _AXIAL,
    "idefics2": _FULL,
    "kimi_k25": {"projection_hidden_size": 64, "text_config": {"head_dim": 8, "num_key_value_heads": 4}},
    "lfm2_vl": {"text_config": {"layer_types": ["conv", "full_attention"] * 3}},
    "minimax_m3_vl": {"text_config": {"layer_types": ["full_attention"] * 3 + ["minimax_m3_sparse"] * 3}},
    "mistral3": _FULL,
    "minicpm_ocr": _MEDIA,
    "minicpmv4_6": _MEDIA,
    "minicpmv4_7": _MEDIA,
    "mllama": {"text_config": {_ROPE: {"rope_type": "default", "rope_theta": 10000.0}}},
    "molmo2": {
        "adapter_config": {"vision_feature_layer": [0, 1]},
        "image_patch_id": 503,
        "vision_config": {"image_size": [32, 32], "num_position_embeddings": 64},
    },
    "nemotron_h_omni": _MEDIA | {"text_config": {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16}},
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_tiny_patch16_224",
            "do_pooling": False,
            "model_args": {"embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": 32, "patch_size": 4},
        },
    },
    "paddleocr_vl": {"text_config": {"rope_parameters": _rope(4, 2, 2)}},
    "qwen2_5_omni_thinker": _MARKS | {"text_config": {"rope_parameters": _rope(4, 2, 2)}},
    "qwen3_omni_moe_thinker": _MARKS | {"text_config": {"rope_parameters": _rope(4, 2, 2)}},
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 8,
            "indexer_compress_ratio": 4,
        },
    },
    "shieldgemma2": {"mm_tokens_per_image": 16},
    "step3p7": {"text_config": {"sliding_window": 20}},
    "vipllava": {"vision_feature_layers": [-1, -2]},
}
