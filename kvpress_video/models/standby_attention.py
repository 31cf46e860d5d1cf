"""Importance of vision patches by the attention of standby queries, a surrogate of POINTS-Long's learned tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.hooks import RemovableHandle

from ..errors import BudgetError
from .base import ImportanceSink, StandbySettings


def cell_grid(n: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows × columns of cells, n in all, nearest in shape to a frame of rows × columns patches.

    Raises:
        BudgetError: no such grid fits into the frame.
    """
    fits = [(r, n // r) for r in range(1, n + 1) if n % r == 0 and r <= rows and n // r <= columns]
    if not fits:
        raise BudgetError(f"{n} standby queries do not form a grid inside {rows}×{columns} patches: ask for fewer.")
    return min(fits, key=lambda cells: abs(math.log(cells[0] * columns / (cells[1] * rows))))


def surrogate_queries(queries: Tensor, n: int, rows: int, columns: int) -> Tensor:
    """Mean patch query of each of n uniform cells.

    Args:
        queries: (frames, heads, rows·columns, d), patches in row-major order.

    Returns:
        (frames, heads, n, d) fp32.
    """
    frames, heads, _, width = queries.shape
    spatial = queries.float().transpose(2, 3).reshape(frames, heads * width, rows, columns)
    cells = adaptive_avg_pool2d(spatial, cell_grid(n, rows, columns))
    return cells.reshape(frames, heads, width, n).transpose(2, 3)


def patch_importance(standby: Tensor, keys: Tensor) -> Tensor:
    """Mean over heads and standby queries of softmax(q·k/√d) over the patches of a frame.

    Args:
        standby: (frames, heads, n, d).
        keys: (frames, heads, patches, d).

    Returns:
        (frames, patches) fp32, each frame summing to 1.
    """
    logits = torch.matmul(standby.float(), keys.float().transpose(2, 3)) / math.sqrt(keys.shape[-1])
    return logits.softmax(dim=-1).mean(dim=(1, 2))


def watch_square(
    attention: Any,
    norm: nn.Module,
    tokens_along: Callable[[int], int],
    settings: StandbySettings,
    report: ImportanceSink,
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
