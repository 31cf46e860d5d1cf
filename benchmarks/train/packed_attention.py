"""Attention of packed sequences in training: a shared beginning, then blocks that see it and themselves only.

One mask over the whole sequence says the same, at two to three times the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

NAME = "kvpress_video_packed"


@dataclass(frozen=True)
class Packing:
    """Layout of a sequence: `shared` tokens, then `blocks` of equal size, whose first `hidden` keys nobody sees."""

    shared: int
    blocks: int
    hidden: int


def use_packed_attention(text_model: Any) -> None:
    """Make a text model attend by the `packing` that its forward is given; by the mask if that is None."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    text_model.config._attn_implementation = NAME


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with queries `(B, H, S, D)` to keys and values `(B, H / groups, S, D)`: `(B, S, H, D)`."""
    key, value = (part.repeat_interleave(module.num_key_value_groups, dim=1) for part in (key, value))
    if packing is None:
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return mixed.transpose(1, 2), None
    count, shared = len(query), packing.shared
    front, keys, values = (part[:, :, :shared] for part in (query, key, value))
    first = functional.scaled_dot_product_attention(front, keys, values, is_causal=True)
    blocks = [
        part[:, :, shared:].unflatten(2, (packing.blocks, -1)).transpose(1, 2).flatten(0, 1)
        for part in (query, key, value)
    ]
    keys, values = (
        torch.cat([whole.repeat_interleave(packing.blocks, dim=0), own], dim=2)
        for whole, own in zip((keys, values), blocks[1:], strict=True)
    )
    size = blocks[0].shape[2]
    index = torch.arange(shared + size, device=query.device)
    seen = (index < shared) | (index >= shared + packing.hidden) & (index <= index[-size:, None])
    rest = functional.scaled_dot_product_attention(blocks[0], keys, values, attn_mask=seen)
    rest = rest.unflatten(0, (count, -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, rest], dim=2).transpose(1, 2), None
