"""Qwen3.5, dense and mixture of experts: Qwen3-VL's vision, and recurrent layers between those of full attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .qwen_vl import QwenVL

_STATE_BYTES = 4  # of each number of a recurrent state, which is fp32 whatever the weights are


class Qwen35(QwenVL):
    """Qwen3.5: three of four text layers are gated delta nets, whose states do not grow; the others are compressed.

    Entries are evicted from the layers of attention alone: the recurrent states have taken in every token. With
    `stage="input"` they never see what was dropped, which changes them as well. A budget of bytes pays for the states.
    """

    model_types = ("qwen3_5", "qwen3_5_moe")
    interleaved_rope = True
    written_times = True
    left_alone = frozenset({"linear_attention"})

    @property
    def recurrences(self) -> Mapping[int, nn.Module]:
        pairs = enumerate(zip(self.text_model.layers, self.layer_kinds, strict=True))
        return {number: layer.linear_attn for number, (layer, kind) in pairs if kind == "linear_attention"}

    def beside_bytes(self, tokens: int) -> int:
        states = 0
        for module in self.recurrences.values():
            recurrence: Any = module
            states += recurrence.conv_dim * recurrence.conv_kernel_size * self.text_model.dtype.itemsize
            states += recurrence.num_v_heads * recurrence.head_k_dim * recurrence.head_v_dim * _STATE_BYTES
        return states
