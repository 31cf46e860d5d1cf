"""Qwen3.5: Qwen3-VL's vision without deepstack; every other text layer is recurrent, half of a key is rotated."""

from __future__ import annotations

from .qwen import EXPERTS, QWEN_TOWER, qwen, timed

LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
HYBRID = LINEAR | {"full_attention_interval": 2, "head_dim": 32, "partial_rotary_factor": 0.5}
HYBRID |= {"rms_norm_eps": 0.01}  # what a recurrence brings out may be close to nothing: its norm then scales rounding
TOWER = QWEN_TOWER | {"num_position_embeddings": 64}

TABLE = {
    "qwen3_5": qwen(timed, [3, 3, 2], TOWER, **HYBRID),
    "qwen3_5_moe": qwen(timed, [3, 3, 2], TOWER, **HYBRID, **EXPERTS, shared_expert_intermediate_size=32),
}
