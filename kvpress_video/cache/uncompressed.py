"""Layers of a cache that are not compressed, sliding or recurrent: copies of them, and their states as tensors.

Neither kind can drop its last tokens: to return to an earlier state, a window or recurrent state must be copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache

from ..utils.method_patch import replaced
from .layer import CompressedLayer


def rows_of(layer: Any, rows: Tensor) -> Any:
    """A stock cache layer, sliding or recurrent, that holds copies of some rows of another, (n,) int64."""
    part = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(part, name, dict(value))
    part.reorder_cache(rows)
    return part


def copies(cache: Cache, rows: int) -> dict[int, Any]:
    """Return copies of the uncompressed layers, by their index in the cache."""
    return {number: rows_of(layer, torch.arange(rows)) for number, layer in _others(cache)}


def put_copies(cache: Cache, layers: Mapping[int, Any], rows: int) -> None:
    """Replace layers by copies of `layers`."""
    for number, layer in layers.items():
        cache.layers[number] = rows_of(layer, torch.arange(rows))


def states(cache: Cache) -> dict[str, Tensor]:
    """Return the states of the uncompressed layers as `{index}.{part}`; empty before the first token.

    The parts of a recurrent layer are `conv` and `recurrent`, those of a sliding one `keys` and `values`.
    """
    return {f"{number}.{part}": state for number, layer in _others(cache) for part, state in _state(layer).items()}


def put_states(cache: Cache, given: Mapping[str, Tensor], tokens: int) -> None:
    """Fill empty layers with the states of others that have seen `tokens` tokens."""
    for number, layer in _others(cache):
        mine = {part: given[f"{number}.{part}"] for part in _parts(layer) if f"{number}.{part}" in given}
        if mine:
            _fill(layer, mine, tokens)


def join_rows(cache: Cache, parts: Sequence[Cache], tokens: int) -> None:
    """Fill empty layers with the rows of several caches, with zeros in front of shorter ones."""
    found = [states(part) for part in parts]
    joined = {}
    for name in sorted({name for part in found for name in part}):
        longest = max((part[name] for part in found if name in part), key=lambda state: state.shape[-2])
        rows = [part.get(name, torch.zeros_like(longest[:1])) for part in found]
        joined[name] = torch.cat([pad(row, (0, 0, longest.shape[-2] - row.shape[-2], 0)) for row in rows])
    put_states(cache, joined, tokens)


def hidden_prefixes(cache: Cache) -> list[AbstractContextManager[None]]:
    """Return contexts in which sliding layers count their length from here on, as in `CompressedLayer.hidden_prefix`.

    Models with sliding layers build stock masks before any hook can, so in their caches all layers measure masks from
    here on as well.
    """
    sliding = [layer for _, layer in _others(cache) if hasattr(layer, "cumulative_length")]
    masked = [layer for layer in cache.layers if hasattr(layer, "get_seq_length")] if sliding else []
    return [
        *(replaced(layer, "get_seq_length", partial(_counted_from, layer.get_seq_length())) for layer in sliding),
        *(replaced(layer, "get_mask_sizes", partial(_sizes_without_prefix, layer)) for layer in masked),
    ]


def begin(layer: Any, keys: Tensor, values: Tensor) -> None:
    """Initialise an empty stock layer for keys and values, (batch, kv_heads, n, width), by an update without tokens."""
    layer.update(keys[:, :, :0], values[:, :, :0])


def _counted_from(seen: int, length: Callable[[], int]) -> Callable[[], int]:
    return lambda: length() - seen


def _sizes_without_prefix(layer: Any, sizes: Callable[[int], tuple[int, int]]) -> Callable[[int], tuple[int, int]]:
    return lambda query: (layer.get_seq_length() + query, 0)


def _others(cache: Cache) -> Iterator[tuple[int, Any]]:
    return ((number, layer) for number, layer in enumerate(cache.layers) if not isinstance(layer, CompressedLayer))


def _parts(layer: Any) -> tuple[str, str]:
    return ("conv", "recurrent") if hasattr(layer, "recurrent_states") else ("keys", "values")


def _state(layer: Any) -> dict[str, Tensor]:
    if hasattr(layer, "recurrent_states"):
        known = any(layer.has_previous_state.values())
        return {"conv": layer.conv_states[0], "recurrent": layer.recurrent_states[0]} if known else {}
    return {"keys": layer.keys, "values": layer.values} if layer.keys is not None else {}


def _fill(layer: Any, state: Mapping[str, Tensor], tokens: int) -> None:
    if hasattr(layer, "recurrent_states"):
        layer.lazy_initialization(conv_states=state["conv"])
        layer.lazy_initialization(recurrent_states=state["recurrent"])
        layer.conv_states[0].copy_(state["conv"])
        layer.recurrent_states[0].copy_(state["recurrent"])
        layer.has_previous_state[0] = True
        return
    begin(layer, state["keys"], state["values"])
    layer.keys, layer.values = state["keys"], state["values"]
    layer.cumulative_length = tokens
