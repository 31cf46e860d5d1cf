"""Qwen3.5, dense and mixture of experts: Qwen3-VL's vision tower, recurrent and full-attention text layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .qwen_vl import QwenVL

_STATE_BYTES = 4  # recurrent states are fp32 whatever the dtype of the weights


class Qwen35(QwenVL):
    """Qwen3.5: three of four text layers are gated delta nets with states of fixed size; the others are compressed.

    Eviction affects the attention layers only: the recurrent states have seen every token. With `stage="input"` they do
    not see dropped tokens, which changes them too. A budget in bytes includes the states.
    """

    model_types = ("qwen3_5", "qwen3_5_moe")
    interleaved_rope = True
    labelled = True
    unstreamed = "has recurrent layers, which streams do not carry on yet"
    label_closes = 1  # <|vision_end|>
    left_alone = frozenset({"linear_attention"})

    @property
    def recurrences(self) -> Mapping[int, nn.Module]:
        pairs = enumerate(zip(self.text_model.layers, self.layer_kinds, strict=True))
        return {number: layer.linear_attn for number, (layer, kind) in pairs if kind == "linear_attention"}

    def uncompressed_bytes(self, tokens: int) -> int:
        states, convolved = 0, self.cache_dtypes[1].itemsize
        for module in self.recurrences.values():
            recurrence: Any = module
            states += recurrence.conv_dim * recurrence.conv_kernel_size * convolved
            states += recurrence.num_v_heads * recurrence.head_k_dim * recurrence.head_v_dim * _STATE_BYTES
        return states
