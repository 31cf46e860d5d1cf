"""Presses as kvpress writes them: objects with a `score()` that reads an attention module and its call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class KeyNormPress:
    """The smallest keys."""

    compression_ratio: float = 0.0
    ratios: list[float] = field(default_factory=list)

    def score(
        self, module: Any, hidden_states: Tensor, keys: Tensor, values: Tensor, attentions: None, kwargs: dict[str, Any]
    ) -> Tensor:
        self.ratios.append(self.compression_ratio)
        return -keys.norm(dim=-1)


@dataclass
class WindowPress:
    """The attention of the last queries, projected, rotated and scaled as kvpress does for a Llama."""

    window: int = 4
    compression_ratio: float = 0.0

    def score(
        self, module: Any, hidden_states: Tensor, keys: Tensor, values: Tensor, attentions: None, kwargs: dict[str, Any]
    ) -> Tensor:
        config, last = module.config, slice(-self.window, None)
        queries = module.q_proj(hidden_states[:, last])
        queries = queries.view(len(keys), -1, config.num_attention_heads, module.head_dim).transpose(1, 2)
        cos, sin = (part[:, None, last] for part in kwargs["position_embeddings"])
        first, second = queries.chunk(2, dim=-1)
        queries = queries * cos + torch.cat([-second, first], dim=-1) * sin
        repeated = keys.repeat_interleave(module.num_key_value_groups, dim=1)
        logits = queries @ repeated.transpose(2, 3) * module.head_dim**-0.5
        logits += torch.full_like(logits, -torch.inf).triu(keys.shape[2] - self.window + 1)
        drawn = logits.softmax(dim=-1).mean(dim=2)
        return drawn.unflatten(1, (config.num_key_value_heads, -1)).mean(dim=2)


@dataclass
class PrefillPress:
    """Asks for keys, norms and rotations of every token, and for all of them to be new."""

    compression_ratio: float = 0.0

    def score(
        self, module: Any, hidden_states: Tensor, keys: Tensor, values: Tensor, attentions: None, kwargs: dict[str, Any]
    ) -> Tensor:
        assert keys.shape[2] == hidden_states.shape[1], "only supports prefill"
        made = module.k_proj(hidden_states).view(len(keys), keys.shape[2], -1, module.head_dim).transpose(1, 2)
        cos, sin = (part[:, None] for part in kwargs["position_embeddings"])
        first, second = made.chunk(2, dim=-1)
        return -(made * cos + torch.cat([-second, first], dim=-1) * sin - keys).norm(dim=-1)
