"""Attention masks for layers that hold padding, or that differ in length from the first layer."""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import CompressedLayer
from .chunk import Chunk
from .entries import Tags
from .errors import UnsupportedModelError

FLASH = ("flash_attention_2", "flash_attention_3")
SUPPORTED = ("eager", "sdpa", *FLASH)


def check_attention(implementation: str | None) -> str:
    """The implementation, if masks can be built for it.

    Raises:
        UnsupportedModelError: they cannot.
    """
    if implementation not in SUPPORTED:
        raise UnsupportedModelError(
            f"Attention implementation {implementation!r} is not supported: load the model with "
            f"attn_implementation set to one of {', '.join(SUPPORTED)}."
        )
    return implementation


def layer_mask(
    layer: CompressedLayer, chunk: Chunk, given: Tensor | None, implementation: str, states: Tensor
) -> Tensor | None:
    """The mask this layer needs in place of the one that was built from the first layer.

    Every entry held is older than every query, so a query sees all that is valid among them, and the tokens of its own
    pass up to itself. A padding query sees itself, so that no row of the softmax is empty.

    Args:
        layer: before the pass is appended to it.
        chunk: the pass.
        given: the stock mask, or None.
        implementation: attention implementation of the text model.
        states: hidden states that attend, for their dtype and device.

    Returns:
        None where nothing is hidden; (batch, keys) for flash attention; (batch, 1, queries, keys), boolean for sdpa and
        additive for eager.
    """
    held, new = layer.physical, chunk.tags.shape[1]
    padded = layer.padded or any(row.padding for row in chunk.rows)
    fits = given is None or given.shape[-1] == held + new
    complete = layer.physical == layer.logical and not layer.padded and fits
    if chunk.stock_mask and (not held or complete):
        return given
    if not padded and (new == 1 or implementation in FLASH):
        return None
    device, dtype = states.device, states.dtype
    incoming = chunk.tags[..., Tags.INDEX].to(device) >= 0
    valid = incoming if layer.tags is None else torch.cat([layer.tags[:, 0, :, Tags.INDEX] >= 0, incoming], dim=1)
    if implementation in FLASH:
        return valid
    past = torch.ones(new, held + new, dtype=torch.bool, device=device)
    itself = torch.eye(new, dtype=torch.bool, device=device)
    visible = past.tril(held) & valid[:, None, None, :]
    visible[..., held:] |= itself
    if implementation == "sdpa":
        return visible
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)
