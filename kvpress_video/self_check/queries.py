"""Check of recomputed queries: they must reproduce the output of the attention."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..attention.queries import last_queries
from ..compressor.entries import Context
from ..compressor.rope import Rope
from ..models.cache_argument import CACHE
from ..models.general import General
from .trials import Conversation, Disagreement, Trials

_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "num_key_value_groups", "scaling")


def check_queries(trials: Trials, talk: Conversation, interleaved: bool) -> None:
    """Recompute queries and from them the output of every compressed attention layer.

    Raises:
        Disagreement: a layer lacks a projection, or its output differs.
        UnsupportedModelError: the rotation changes with the length of the sequence.
    """
    adapter: General = trials.adapter
    missing = {name for module in adapter.attentions for name in _PARTS if not hasattr(module, name)}
    if missing:
        raise Disagreement(f"its attention lacks {', '.join(sorted(missing))}")
    if not hasattr(adapter.text_model, "rotary_emb"):
        raise Disagreement("its text model lacks rotary_emb")
    rope = Rope.of(adapter.text_model, interleaved)
    worst = [0.0]

    def compare(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        if states.shape[1] > 1:
            layer = kwargs[CACHE].layers[module.layer_idx]
            made = _attended(module, states, layer, rope)
            given = (output[0] if isinstance(output, tuple) else output)[:, -made.shape[1] :]
            worst[0] = max(worst[0], float((made - given).abs().amax() / given.std()))

    with ExitStack() as undo:
        for attention in adapter.attentions:
            undo.callback(attention.register_forward_hook(compare, with_kwargs=True).remove)
        trials.compressed(talk, 1.0, "whole")
    limit = {torch.float32: 1e-3, torch.float64: 1e-3}.get(adapter.text_model.dtype, 1e-1)
    if not worst[0] <= limit:
        raise Disagreement(f"q_proj, q_norm and rope do not reproduce its attention (error {worst[0]:.2g})")


def _attended(module: Any, states: Tensor, layer: Any, rope: Rope) -> Tensor:
    """Compute the output of an attention layer, (batch, n, hidden), from recomputed queries and cached entries."""
    entries = layer.entries(Context())
    queries = last_queries(module, states, entries, rope, states.shape[1])
    keys, values = (part.float().repeat_interleave(module.num_key_value_groups, dim=1)
                    for part in (entries.keys, entries.values))  # fmt: skip
    logits = queries.states @ keys.transpose(2, 3) - queries.normaliser[..., None]
    unseen = entries.index[:, :1, None] > queries.index[:, None, :, None]
    mixed = logits.masked_fill(unseen, -torch.inf).exp() @ values
    made: Tensor = module.o_proj(mixed.transpose(1, 2).flatten(2).to(states.dtype))
    return made
