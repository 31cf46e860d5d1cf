"""Vision towers that see each frame as a square of patches on its own: importance of its tokens by standby queries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.hooks import RemovableHandle

from .base import Report, StandbySettings
from .importance import patch_importance, surrogate_queries


def watch_square(
    attention: Any, norm: nn.Module, tokens_along: Callable[[int], int], settings: StandbySettings, report: Report
) -> RemovableHandle:
    """Report the importance of the visual tokens of every frame that a vision block is given, (tokens,) fp32.

    Args:
        attention: the block's attention, with `num_heads`, `q_proj`, `k_proj` and maybe `q_norm` and `k_norm`; it is
            given (frames, patches, d), with or without a class token in front.
        norm: what the block does before it.
        tokens_along: visual tokens along a side of so many patches.
        settings: the standby queries.
    """
    q_norm, k_norm = (getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm"))

    @torch.no_grad()
    def before_attention(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        patch_side = math.isqrt(hidden.shape[1])
        patches, token_side = patch_side**2, tokens_along(patch_side)
        heads, frames = module.num_heads, len(hidden)

        def split(states: Tensor) -> Tensor:
            return states.reshape(frames, -1, heads, states.shape[-1] // heads).transpose(1, 2)[:, :, -patches:]

        queries, keys = split(q_norm(module.q_proj(hidden))), split(k_norm(module.k_proj(hidden)))
        if settings.tokens is None:
            standby = surrogate_queries(queries, settings.n, patch_side, patch_side)
        else:
            tokens = q_norm(module.q_proj(norm(settings.tokens.to(hidden))))
            standby = tokens.reshape(1, len(tokens), heads, -1).transpose(1, 2)
        importance = patch_importance(standby, keys).reshape(frames, 1, patch_side, patch_side)
        pooled = adaptive_avg_pool2d(importance, (token_side, token_side))
        report(pooled.flatten() * (patches / token_side**2))

    return attention.register_forward_pre_hook(before_attention, with_kwargs=True)
