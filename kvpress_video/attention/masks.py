"""Attention masks for cases that the stock mask does not cover: padding, unequal lengths, bidirectional images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..compressor.entries import Tags, is_visual
from ..errors import UnsupportedModelError

FLASH = ("flash_attention_2", "flash_attention_3")
SUPPORTED = ("eager", "sdpa", *FLASH)


def check_attention(implementation: str | None, uneven: bool = False) -> str:
    """Return the attention implementation after checking that masks can be built for it.

    Args:
        implementation: implementation of the text model.
        uneven: whether heads may hold different numbers of entries, and need separate masks.

    Raises:
        UnsupportedModelError: they cannot.
    """
    if uneven and implementation in FLASH:
        raise UnsupportedModelError(
            f"{implementation} takes one mask for all heads, which here keep different numbers of entries: load the "
            "model with attn_implementation='sdpa', or choose a method whose heads keep equal numbers."
        )
    if implementation not in SUPPORTED:
        raise UnsupportedModelError(
            f"Attention implementation {implementation!r} is not supported: load the model with "
            f"attn_implementation set to one of {', '.join(SUPPORTED)}."
        )
    return implementation


def real_columns(mask: Any, ids: Tensor) -> Tensor:
    """Return which token ids are not padding, (batch, n) bool.

    Args:
        mask: mask of the text model: None, (batch, keys), or a 4-D mask whose last query sees every token; or one of
            these per kind of layer.
        ids: (batch, n), the newest of the keys.

    Raises:
        UnsupportedModelError: the mask has another form.
    """
    length = ids.shape[1]
    if isinstance(mask, Mapping):
        mask = mask["full_attention"]
    if mask is not None and mask.ndim == 4:
        last = mask[:, 0, -1]
        mask = (last if last.dtype == torch.bool else last == 0).expand(len(ids), -1)
    if mask is not None and mask.ndim != 2:
        raise UnsupportedModelError(f"Expected a 2-D attention mask, got one of shape {tuple(mask.shape)}.")
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask[:, -length:].bool()


def without_masks(given: Any) -> Any:
    """Return the argument that replaces outdated stock masks; the hooks supply others."""
    return dict.fromkeys(given) if isinstance(given, Mapping) else None


def layer_mask(
    layer: CompressedLayer,
    forward_pass: ForwardPass,
    given: Tensor | None,
    implementation: str,
    states: Tensor,
    blocks: bool,
    heads: int,
) -> Tensor | None:
    """Return the mask that a layer needs in place of the one built from the first layer.

    All held entries are older than all queries, so a query sees every valid one of them, and the tokens of its own pass
    up to itself or to the end of its image. A padding query sees itself, so that no softmax row is empty.

    Args:
        layer: the layer, before the pass is appended.
        forward_pass: the pass.
        given: the stock mask, or None.
        implementation: attention implementation of the text model.
        states: hidden states of the queries, for their dtype and device.
        blocks: whether attention within an image is bidirectional.
        heads: number of attention heads.

    Returns:
        None if nothing is masked; (batch, keys) for flash attention, which has no blocks; (batch, 1, queries, keys), to
        be added to the logits, for eager and for sdpa, which would convert a boolean mask in every layer. If KV heads
        hold different numbers of entries, (batch, attention heads, queries, keys).

    Raises:
        UnsupportedModelError: flash attention, if KV heads hold different numbers of entries.
    """
    held, new = layer.span, forward_pass.length
    padded = layer.padded or any(row.padding for row in forward_pass.rows)
    if keeps_stock_mask(layer, forward_pass, given, blocks):
        return given
    if not padded and (new == 1 or implementation in FLASH):
        return None
    if not padded and not (blocks and brings_images(forward_pass)):
        if not held and implementation == "sdpa":
            return None  # its causal kernel, which is faster without a mask tensor
        return causal(held, implementation, states)
    valid = real_tokens(forward_pass, states.device)[:, None]
    if held:
        earlier = layer.real()
        valid = torch.cat([earlier, valid.expand(-1, earlier.shape[1], -1)], dim=-1)
    if implementation in FLASH:
        check_attention(implementation, uneven=valid.shape[1] > 1)
        return valid[:, 0]
    mask = built(valid, image_blocks(forward_pass, states.device) if blocks else None, None, implementation, states)
    return mask if mask.shape[1] == 1 else mask.repeat_interleave(heads // mask.shape[1], dim=1)


def newest_queries(mask: Tensor | None, states: Tensor) -> Tensor | None:
    """Return the rows of a mask for hidden states (batch, n, …), if a layer computes only the newest n queries."""
    return mask if mask is None or mask.ndim != 4 else mask[:, :, -states.shape[1] :]


def keeps_stock_mask(layer: CompressedLayer, forward_pass: ForwardPass, given: Tensor | None, blocks: bool) -> bool:
    """Whether the stock mask of a pass is right for a layer; the arguments are those of `layer_mask`."""
    fits = given is None or given.ndim != 4 or given.shape[-1] == layer.physical + forward_pass.length
    complete = (
        layer.physical == layer.logical and not layer.padded and fits and not (blocks and brings_images(forward_pass))
    )
    return forward_pass.stock_mask and (not layer.physical or complete)


def brings_images(forward_pass: ForwardPass) -> bool:
    """Whether a pass has visual tokens."""
    return any(row.held for row in forward_pass.rows)


def real_tokens(forward_pass: ForwardPass, device: torch.device) -> Tensor:
    """Return which tokens of a pass are not padding, (batch, n) bool."""
    return forward_pass.tags[..., Tags.INDEX].to(device) >= 0


def image_blocks(forward_pass: ForwardPass, device: torch.device) -> Tensor:
    """Return the image of each token of a pass, (batch, n) int64: adjacent visual tokens form an image, text is -1."""
    visual = is_visual(forward_pass.tags[..., Tags.KIND].to(device))
    starts = visual & ~visual.roll(1, dims=1)
    starts[:, 0] = visual[:, 0]
    return torch.where(visual, starts.long().cumsum(dim=1), -1)


def causal(held: int, implementation: str, states: Tensor) -> Tensor:
    """Build the mask of a pass without padding: each query sees the held entries and the pass up to itself.

    sdpa's `is_causal` aligns the first query with the first key, which is wrong here, and on a CPU its
    `causal_lower_right` builds such a mask in every layer.

    Args:
        held: entries before the pass.
        implementation: attention implementation.
        states: (batch, queries, …), for their dtype and device.

    Returns:
        (1, 1, queries, held + queries).
    """
    new = states.shape[1]
    return states.new_full((1, 1, new, held + new), _hidden(implementation, states)).triu_(held + 1)


def _hidden(implementation: str, states: Tensor) -> float:
    return -torch.inf if implementation == "sdpa" else torch.finfo(states.dtype).min


def built(valid: Tensor, blocks: Tensor | None, window: int | None, implementation: str, states: Tensor) -> Tensor:
    """Build a mask for sdpa or eager attention.

    Args:
        valid: which keys are not padding, (batch, heads or 1, keys) bool, in sequence order, those of the queries last.
        blocks: image of each query, -1 for text, (batch, queries); attention within an image is bidirectional.
        window: number of tokens that a query sees backwards, itself included.
        implementation: attention implementation.
        states: (batch, queries, …), for their dtype and device.

    Returns:
        (batch, heads or 1, queries, keys).
    """
    new, keys = states.shape[1], valid.shape[-1]
    held = keys - new
    visible = torch.ones(new, keys, dtype=torch.bool, device=valid.device).tril(held)
    if blocks is not None:
        together = (blocks[:, :, None] == blocks[:, None, :]) & (blocks[:, :, None] >= 0)
        visible = visible | torch.nn.functional.pad(together, (held, 0))[:, None]
    if window is not None:
        ordinal = valid.cumsum(dim=-1)
        visible = visible & (ordinal[..., None, :] > ordinal[..., held:, None] - window)
    visible = visible & valid[..., None, :]
    visible[..., held:] |= torch.eye(new, dtype=torch.bool, device=valid.device)
    mask = torch.zeros(visible.shape, dtype=states.dtype, device=states.device)
    return mask.masked_fill_(~visible, _hidden(implementation, states))
