"""`select()`: run a method on plain tensors, without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetError, MissingInputError
from ..utils.numbers import is_whole
from .base import NEEDS, Compressor
from .entries import Context, Grid, Queries, segment_entries
from .registry import make_method
from .results import MethodCall
from .rope import Rope

_ARGUMENTS = {
    "queries": "queries",
    "probe": "queries",
    "reconstruction": "queries",
    "vision_attention": "importance",
    "rope": "rope",
}
"""The argument that replaces each input captured from a model."""


def select(
    method: str | Compressor,
    keys: Tensor,
    values: Tensor,
    *,
    grid: tuple[int, int, int],
    keep: int | str,
    prefix: int = 0,
    suffix: int = 0,
    layer: int = 0,
    layers: int = 1,
    importance: Tensor | None = None,
    queries: Tensor | None = None,
    rope: Rope | None = None,
    positions: Tensor | None = None,
    context: Context | None = None,
    **settings: Any,
) -> Tensor:
    """Select the entries of one layer that a method keeps; for a merging method, the slots of its means.

    Args:
        method: a method's name, `"name:setting=value,…"`, or an instance.
        keys, values: (kv_heads, prefix + frames·rows·columns + suffix, head_dim), keys as cached (rotated).
        grid: (frames, rows, columns) of the visual entries.
        keep: entries to keep per head: a number, or a share of the visual entries such as `"25%"`, rounded half up.
        prefix, suffix: text entries before the first visual one and after the last; methods do not see them, but
            queries attend to them.
        layer: index of the text layer, from 0.
        layers: number of text layers.
        importance: vision-attention importance of each visual token, (frames·rows·columns,), for methods that need
            `"vision_attention"`.
        queries: queries of tokens after the last visual entry, (attention_heads, n, head_dim), rotated as the keys are
            and not yet divided by √head_dim, for methods that need `"queries"` or `"probe"`. As in a model, the last
            `window` or `probe` of them count, and all of them for `"reconstruction"`. Their softmax runs over `keys`;
            with a suffix they are the queries of its last tokens, each of which attends to the keys up to its own.
            Their positions follow the largest of a visual key, one a token.
        rope: rotation of the keys, such as `Rope.of(model.get_decoder())`, for methods that need `"rope"`.
        positions: position (t, h, w) to which each visual key is rotated, (frames·rows·columns, 3); by default its
            frame, row and column.
        context: further inputs, in the fields of their names; the other arguments take precedence.
        **settings: the method's settings.

    Returns:
        (kv_heads, keep) int64, ascending, relative to the first visual entry. For a method whose heads keep different
        numbers, (kv_heads, most), with leading -1 in heads that keep fewer.

    Raises:
        BudgetError: shapes and grid disagree, an argument has the wrong type or range, `keep` cannot be parsed, or the
            method cannot keep exactly `keep` entries.
        MissingInputError: the method needs an input that is not given; the message names the argument.
        UnknownNameError: unknown method or setting.
        MethodError: the method is declared wrongly, failed, or returned an unusable result.
    """
    tensors = {"keys": keys, "values": values, "importance": importance, "queries": queries, "positions": positions}
    _check_tensors(tensors)
    _check_numbers(grid, prefix, suffix, layer, layers)
    shape = Grid(*grid)
    length = prefix + shape.tokens + suffix
    if keys.shape != values.shape or keys.ndim != 3 or keys.shape[1] != length:
        raise BudgetError(
            f"keys {tuple(keys.shape)} and values {tuple(values.shape)} must both be (kv_heads, {prefix} + "
            f"{shape.frames}·{shape.rows}·{shape.columns} + {suffix} = {length}, head_dim)."
        )
    _check_shape("importance", importance, (shape.tokens,))
    _check_shape("positions", positions, (shape.tokens, 3))
    count = _entries(keep, shape.tokens)
    compressor = make_method(method, **settings)
    context = context or Context()
    _check_needs(compressor, {"importance": importance, "queries": queries, "rope": rope}, context)
    end = max(shape) if positions is None else int(positions.max()) + 1
    seen = None if queries is None else _queries(compressor, queries, keys, shape.tokens, suffix, end)
    context = replace(context, layer=layer, layers=layers, rope=rope, queries=seen)
    visual = (slice(None), slice(prefix, prefix + shape.tokens))
    entries = segment_entries(keys[visual][None], values[visual][None], shape, context, importance, positions)
    call = MethodCall(compressor, entries, count)
    if compressor.uneven:
        return entries.where(call.reduce_uneven()).index[0].long()
    return call.reduce().slots[0]


def _check_tensors(given: dict[str, Any]) -> None:
    for name, part in given.items():
        if part is not None and not isinstance(part, Tensor):
            raise BudgetError(f"{name} must be a torch tensor, got {type(part).__name__}.")


def _check_numbers(grid: Any, prefix: int, suffix: int, layer: int, layers: int) -> None:
    if not isinstance(grid, tuple | list) or len(grid) != 3 or not all(is_whole(each) and each > 0 for each in grid):
        raise BudgetError(f"grid must be three whole numbers above zero, (frames, rows, columns), got {grid!r}.")
    for name, text in (("prefix", prefix), ("suffix", suffix)):
        if not is_whole(text) or text < 0:
            raise BudgetError(f"{name} must be a number of text entries from 0, got {text!r}.")
    if not is_whole(layer) or not is_whole(layers) or not 0 <= layer < layers:
        raise BudgetError(f"layer must be the index of one of {layers!r} layers, from 0, got {layer!r}.")


def _check_shape(name: str, given: Tensor | None, expected: tuple[int, ...]) -> None:
    if given is not None and tuple(given.shape) != expected:
        raise BudgetError(f"{name} of shape {tuple(given.shape)} must be {expected}, one per visual entry.")


def _check_needs(method: Compressor, given: dict[str, Any], context: Context) -> None:
    def held(need: str) -> Any:
        return given[_ARGUMENTS[need]] if need in _ARGUMENTS else getattr(context, need, None)

    lacking = sorted(need for need in method.needs if held(need) is None)
    if not lacking:
        return
    name = type(method).__name__
    if unknown := [need for need in lacking if need not in _ARGUMENTS and not hasattr(context, need)]:
        raise MissingInputError(
            f"{name} needs {_listed(unknown)}, which bare tensors do not hold: use kvpress_video.compress() on a model."
        )
    arguments = " and ".join(
        dict.fromkeys(
            f"{_ARGUMENTS[need]}=…" if need in _ARGUMENTS else f"context=Context({need}=…)" for need in lacking
        )
    )
    raise MissingInputError(
        f"{name} needs {_listed(lacking)}, which keys and values do not hold: pass {arguments}, or use "
        "kvpress_video.compress() on a model."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _queries(method: Compressor, queries: Tensor, keys: Tensor, tokens: int, suffix: int, end: int) -> Queries:
    """Scale queries, and compute their normaliser over the keys; every one of them comes after the visual entries."""
    heads, _, width = keys.shape
    if queries.ndim != 3 or queries.shape[0] % heads or queries.shape[2] != width or not queries.shape[1]:
        raise BudgetError(
            f"queries of shape {tuple(queries.shape)} must be (attention_heads, n, {width}), with a multiple of the "
            f"{heads} KV heads."
        )
    counted = set() if "reconstruction" in method.needs else {"queries", "probe"} & method.needs
    for need in sorted(counted):
        queries = queries[:, -getattr(method.observer, NEEDS[need][0]) :]
    if 0 < suffix < (count := queries.shape[1]):
        raise BudgetError(
            f"{count} queries cannot be those of the {suffix} tokens in the suffix: give as many or fewer."
        )
    states = queries.float() * width**-0.5
    logits = states.unflatten(0, (heads, -1)) @ keys.float()[:, None].transpose(-1, -2)
    if suffix:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=keys.device).triu(keys.shape[1] - count + 1)
        logits = logits.masked_fill(later, -torch.inf)
    index = torch.full((1, states.shape[1]), tokens, dtype=torch.int32, device=keys.device)
    place = end + max(suffix - states.shape[1], 0) + torch.arange(states.shape[1], device=keys.device)
    positions = place.float()[None, :, None].expand(-1, -1, 3)
    return Queries(states[None], logits.logsumexp(dim=-1).flatten(0, 1)[None], index, positions)


def _entries(keep: int | str, tokens: int) -> int:
    """Convert `keep` to a number of entries, out of `tokens`."""
    share = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", keep) if isinstance(keep, str) else None
    if share is None and not is_whole(keep):
        raise BudgetError(f"Cannot read keep={keep!r}: give a number of entries, or a share such as '25%'.")
    count = int(keep) if share is None else int(float(share[1]) / 100 * tokens + 0.5)
    if not 0 < count <= tokens:
        raise BudgetError(f"keep must be between 1 and the {tokens} visual entries, got {keep!r}.")
    return count
