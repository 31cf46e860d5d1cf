"""Attention of packed sequences in training: a shared, causal beginning, then questions with a mask.

A mask over the whole sequence is equivalent, at two to three times the cost.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "kvpress_video_packed"


def use_packed_attention(text_model: Any) -> None:
    """Make a text model attend by the mask and the number of `shared` tokens passed to its forward."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    text_model.config._attn_implementation = NAME


def whole_mask(mask: Tensor) -> Tensor:
    """Extend the mask of the last A of S rows, `(B, 1, A, S)`, to all rows, `(B, 1, S, S)`."""
    shared = mask.shape[-1] - mask.shape[-2]
    causal = torch.ones(shared, mask.shape[-1], dtype=torch.bool, device=mask.device).tril()
    return torch.cat([causal.expand(len(mask), 1, -1, -1), mask], dim=2)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, shared: int, **_: Any
) -> tuple[Tensor, None]:
    """Attend with queries `(B, H, S, D)` to keys and values `(B, H / groups, S, D)`: `(B, S, H, D)`.

    The mask `(1 or B, 1, S - shared, S)` covers the rows after the shared ones.
    """
    key, value = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (key, value))
    front, keys, values = (part[:, :, :shared] for part in (query, key, value))
    first = functional.scaled_dot_product_attention(front, keys, values, is_causal=True)
    rest = functional.scaled_dot_product_attention(query[:, :, shared:], key, value, attn_mask=attention_mask)
    return torch.cat([first, rest], dim=2).transpose(1, 2), None
