"""`select()`: study a method on bare tensors, without any model."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ..errors import BudgetError, MissingInputError
from ..utils.numbers import is_whole
from .base import Compressor
from .entries import Context, Grid, segment_entries
from .registry import make_method
from .results import MethodCall


def select(
    method: str | Compressor,
    keys: Tensor,
    values: Tensor,
    *,
    grid: tuple[int, int, int],
    keep: int | str,
    prefix: int = 0,
    layer: int = 0,
    layers: int = 1,
    importance: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Select the entries of one layer that a method keeps.

    Args:
        method: a method's name, `"name:setting=value,…"`, or an instance.
        keys, values: (kv_heads, prefix + frames·rows·columns, head_dim), keys as cached (rotated).
        grid: (frames, rows, columns) of the visual entries.
        keep: entries to keep per head: a number, or a share of the visual entries such as `"25%"`, rounded half up.
        prefix: entries before the first visual one; they are ignored.
        layer: index of the text layer, from 0.
        layers: number of text layers.
        importance: vision-attention importance of each visual token, (frames·rows·columns,), for methods that need it.
        **settings: the method's settings.

    Returns:
        (kv_heads, keep) int64, ascending, relative to the first visual entry.

    Raises:
        BudgetError: shapes and grid disagree, `keep` cannot be read, or the method cannot keep exactly `keep` entries.
        MissingInputError: the method needs an input that is not given.
        UnknownNameError: unknown method or setting.
        MethodError: the method is declared wrongly, failed, or returned an unusable result.
    """
    shape = Grid(*grid)
    if keys.shape != values.shape or keys.ndim != 3 or keys.shape[1] - prefix != shape.tokens:
        raise BudgetError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be (kv_heads, {prefix} + "
            f"{shape.frames}·{shape.rows}·{shape.columns} = {prefix + shape.tokens}, head_dim)."
        )
    count = _entries(keep, shape.tokens)
    compressor = make_method(method, **settings)
    visual = (slice(None), slice(prefix, None))
    missing = compressor.needs - ({"vision_attention"} if importance is not None else set())
    if missing:
        raise MissingInputError(
            f"{method!r} needs {', '.join(sorted(missing))}, which bare keys and values do not hold: "
            "pass importance=…, or use kvpress_video.compress() on a model."
        )
    context = Context(layer=layer, layers=layers)
    entries = segment_entries(keys[visual][None], values[visual][None], shape, context, importance)
    return MethodCall(compressor, entries, count).select()[0]


def _entries(keep: int | str, tokens: int) -> int:
    """Convert `keep` to a number of entries, out of `tokens`."""
    share = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", keep) if isinstance(keep, str) else None
    if share is None and not is_whole(keep):
        raise BudgetError(f"Cannot read keep={keep!r}: give a number of entries, or a share such as '25%'.")
    count = int(keep) if share is None else int(float(share[1]) / 100 * tokens + 0.5)
    if not 0 < count <= tokens:
        raise BudgetError(f"keep must be between 1 and the {tokens} visual entries, got {keep!r}.")
    return count
