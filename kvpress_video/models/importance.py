"""Importance of vision patches by the attention of standby queries, a surrogate of POINTS-Long's learned tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import BudgetError


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
