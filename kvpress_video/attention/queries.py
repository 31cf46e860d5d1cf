"""Recompute the last queries of a pass, for methods that need more than keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Entries, Queries, is_visual
from ..compressor.rope import Rope
from ..utils.blocks import iter_fp32_blocks
from .masks import FLASH


def projected_queries(attention: Any, hidden: Tensor, heads: int, width: int) -> Tensor:
    """Project hidden states (batch, n, …) to queries before rotation, (batch, n, attention heads, width), normalised as
    in the model.

    Args:
        attention: a text attention module.
        hidden: its input.
        heads: KV heads that this process holds.
        width: width of a key.
    """
    projected = attention.q_proj(hidden).unflatten(-1, (heads * attention.num_key_value_groups, -1))
    queries = projected[..., :width]  # the rest is a gate, in families with one
    return attention.q_norm(queries) if hasattr(attention, "q_norm") else queries


@torch.no_grad()
def last_queries(
    attention: Any, hidden_states: Tensor, entries: Entries, rope: Rope, window: int, blocks: bool = False
) -> Queries:
    """Recompute the last `window` queries of a pass, and their softmax normaliser over all cached keys.

    Args:
        attention: a text attention module, after its forward.
        hidden_states: its input, (batch, n, hidden).
        entries: the layer, the pass included; the pass's entries are the last n.
        rope: the text model's rotation.
        window: number of queries; all n if there are fewer.
        blocks: whether attention within an image is bidirectional; with flash attention it is causal all the same.
    """
    hidden = hidden_states[:, -window:]
    batch, count, _ = hidden.shape
    heads, width = entries.keys.shape[1], entries.keys.shape[-1]
    states = projected_queries(attention, hidden, heads, width).transpose(1, 2)
    positions = entries.present[:, :1, -count:]
    states = rope.rotate(states.float(), positions) * (rope.scale * attention.scaling)
    index = entries.index[:, 0, -count:]
    if blocks and attention.config._attn_implementation not in FLASH:
        index = index.gather(1, _image_ends(is_visual(entries.kind[:, 0, -count:])))
    grouped = states.reshape(batch, heads, -1, width)
    parts = []
    for where, keys in iter_fp32_blocks(entries.keys):
        logits = torch.matmul(grouped, keys.transpose(2, 3)).unflatten(2, (-1, count))
        seen = entries.index[:, :, None, None, where]
        hidden_keys = (seen > index[:, None, None, :, None]) | (seen < 0)
        parts.append(logits.masked_fill_(hidden_keys, -torch.inf).logsumexp(dim=-1))
    normaliser = torch.stack(parts).logsumexp(dim=0).flatten(1, 2)
    return Queries(states, normaliser.masked_fill(index[:, None] < 0, torch.inf), index, positions[:, 0])


def _image_ends(visual: Tensor) -> Tensor:
    """Return the column of the last token of each token's image, for text its own column; `visual` (batch, n) bool."""
    column = torch.arange(visual.shape[1], device=visual.device)
    inside = visual & torch.nn.functional.pad(visual[:, 1:], (0, 1))
    return column.masked_fill(inside, len(column)).flip(1).cummin(dim=1).values.flip(1)
