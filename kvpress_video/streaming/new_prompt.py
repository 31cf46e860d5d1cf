"""Let `generate()` treat text that follows a stream as a whole prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ..cache.adoption import layers_of
from ..cache.uncompressed import hidden_prefixes
from ..models.base import Adapter
from ..models.cache_argument import CACHE
from ..utils.concurrency import entered


@contextmanager
def as_new_prompt(adapter: Adapter, cache: DynamicCache) -> Iterator[None]:
    """Run `generate()` as if its input were the whole prompt, leaving no rope deltas on the model."""
    hidden = (layer.hidden_prefix() for layer in layers_of(cache))
    with entered([_rope_deltas_kept(adapter.inner), *hidden, *hidden_prefixes(cache)]):
        yield


@contextmanager
def _rope_deltas_kept(inner: Any) -> Iterator[None]:
    deltas = getattr(inner, "rope_deltas", None)
    try:
        yield
    finally:
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = deltas


@torch.no_grad()
def generate_on(cache: DynamicCache, adapter: Adapter, ids: Tensor, mask: Tensor, **options: Any) -> list[list[int]]:
    """Call the model's own `generate()` on a cache of one or several streams.

    Args:
        cache: one row for each stream.
        adapter: adapter of the model.
        ids, mask: next tokens and their mask, (rows, n), padded on the left.
        **options: options of `generate()`.

    Returns:
        The new tokens of each row, the last of which is not in the cache.
    """
    with as_new_prompt(adapter, cache):
        output = adapter.wrapper.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, **{CACHE: cache}, **options
        )
    new: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return new
