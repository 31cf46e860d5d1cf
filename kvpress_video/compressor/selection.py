"""`select()`: study a method on bare tensors, without any model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import BudgetError, MissingInputError
from .base import Compressor
from .entries import Context, Grid, segment_entries
from .registry import make_method


def select(
    method: str | Compressor,
    keys: Tensor,
    values: Tensor,
    *,
    grid: tuple[int, int, int],
    keep: int,
    prefix: int = 0,
    layer: int = 0,
    layers: int = 1,
    importance: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Which entries of one layer a method keeps.

    Args:
        method: a method's name or an instance.
        keys, values: (kv_heads, prefix + frames·rows·columns, head_dim), keys as cached (rotated).
        grid: (frames, rows, columns) of the visual entries.
        keep: entries to keep per head.
        prefix: entries before the first visual one; they are ignored.
        layer, layers: which text layer this is, of how many.
        importance: vision-attention importance per visual token, (frames·rows·columns,), for methods that need it.
        **settings: the method's settings.

    Returns:
        (kv_heads, keep) int64, ascending, relative to the first visual entry.

    Raises:
        BudgetError: shapes and grid disagree, or the method cannot keep exactly `keep`.
        MissingInputError: the method looks at something that is not given.
        UnknownNameError: unknown method or setting.
    """
    shape = Grid(*grid)
    if keys.shape != values.shape or keys.ndim != 3 or keys.shape[1] - prefix != shape.tokens:
        raise BudgetError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be (kv_heads, {prefix} + "
            f"{shape.frames}·{shape.rows}·{shape.columns} = {prefix + shape.tokens}, head_dim)."
        )
    if not 0 < keep <= shape.tokens:
        raise BudgetError(f"keep must be between 1 and the {shape.tokens} visual entries, got {keep}.")
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
    return compressor.select(entries, keep)[0]
