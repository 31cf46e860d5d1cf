"""Importance of vision patches from the attention of standby queries, after POINTS-Long (arXiv 2604.11627)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.hooks import RemovableHandle

from ..errors import BudgetError
from .base import ImportanceSink, StandbySettings

_ATTENTIONS = ("self_attn", "attention")
_NORMS = ("layer_norm1", "layernorm_before")


def cell_grid(n: int, rows: int, columns: int) -> tuple[int, int]:
    """Choose the grid of n cells whose aspect ratio is nearest that of a frame of rows × columns patches.

    Returns:
        Rows and columns of cells.

    Raises:
        BudgetError: no grid of n cells fits into the frame.
    """
    fits = [(r, n // r) for r in range(1, n + 1) if n % r == 0 and r <= rows and n // r <= columns]
    if not fits:
        raise BudgetError(f"{n} standby queries do not form a grid inside {rows}×{columns} patches: ask for fewer.")
    return min(fits, key=lambda cells: abs(math.log(cells[0] * columns / (cells[1] * rows))))


def surrogate_queries(queries: Tensor, n: int, rows: int, columns: int) -> Tensor:
    """Average the patch queries of each of n uniform cells, a training-free surrogate of learned standby tokens.

    Args:
        queries: (frames, heads, rows·columns, d), patches in row-major order.
        n: number of cells.
        rows: rows of patches.
        columns: columns of patches.

    Returns:
        (frames, heads, n, d) fp32.

    Raises:
        BudgetError: no grid of n cells fits into the frame.
    """
    frames, heads, _, width = queries.shape
    spatial = queries.float().transpose(2, 3).reshape(frames, heads * width, rows, columns)
    cells = adaptive_avg_pool2d(spatial, cell_grid(n, rows, columns))
    return cells.reshape(frames, heads, width, n).transpose(2, 3)


def patch_importance(standby: Tensor, keys: Tensor) -> Tensor:
    """Compute the mean of softmax(q·k/√d) over heads and standby queries, within each frame.

    Args:
        standby: standby queries, (frames or 1, heads, n, d).
        keys: patch keys, (frames, heads, patches, d).

    Returns:
        (frames, patches) fp32, with sum 1 per frame.
    """
    logits = torch.matmul(standby.float(), keys.float().transpose(2, 3)) / math.sqrt(keys.shape[-1])
    return logits.softmax(dim=-1).mean(dim=(1, 2))


def square_block(inner: Any, config: Any) -> nn.Module:
    """Return the vision block whose output the projector reads: the latest of `vision_feature_layer`, or the last."""
    tower = getattr(inner, "vision_tower", None) or inner.vision_model
    blocks = next(
        module
        for module in tower.modules()
        if isinstance(module, nn.ModuleList) and any(hasattr(module[0], name) for name in _ATTENTIONS)
    )
    layer = getattr(config, "vision_feature_layer", -1)
    last = max(layer) if isinstance(layer, (list, tuple)) else layer
    return blocks[last if last < 0 else last - 1]


def watch_square(
    block: nn.Module,
    tokens_along: Callable[[int], int],
    settings: StandbySettings,
    report: ImportanceSink,
) -> RemovableHandle:
    """Hook a vision block of square frames so that each run reports the importance of its visual tokens.

    Args:
        block: its attention has `num_heads`, `q_proj`, `k_proj` and optionally `q_norm` and `k_norm`; the input is
            (frames, patches, d), with or without a leading class token.
        tokens_along: map from the patches to the visual tokens along a side.
        settings: standby queries.
        report: receives the importance, (tokens,) fp32.

    Returns:
        Handle that removes the hook.
    """
    attention = _first(block, _ATTENTIONS)
    norm = _first(block, _NORMS)
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


def _first(block: nn.Module, names: Sequence[str]) -> Any:
    return next(getattr(block, name) for name in names if hasattr(block, name))
