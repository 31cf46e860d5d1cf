"""Qwen3.5, dense and mixture of experts: Qwen3-VL's vision tower, recurrent and full-attention text layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .qwen3_vl import TimestampedVL


class Qwen35(TimestampedVL):
    """Qwen3.5: three of four text layers are gated delta nets with states of fixed size; the others are compressed.

    Eviction affects the attention layers only: the recurrent states have seen every token. With `stage="input"` they do
    not see dropped tokens, which changes them too. A budget in bytes includes the states.
    """

    model_types = ("qwen3_5", "qwen3_5_moe")
    left_alone = frozenset({"linear_attention"})

    def uncompressed_states(self, tokens: int) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        states: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for number, module in self.recurrences.items():
            layer: Any = module
            states[f"{number}.conv"] = (1, layer.conv_dim, layer.conv_kernel_size), self.cache_dtypes[1]
            states[f"{number}.recurrent"] = (1, layer.num_v_heads, layer.head_k_dim, layer.head_v_dim), torch.float32
        return states
