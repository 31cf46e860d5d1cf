"""Replace the layers of a stock cache by compressed ones, and guard changes to all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..errors import CacheError
from .layer import CompressedLayer
from .quantization import canonical
from .storage import Storage


def adopt(cache: Cache, config: Any, storage: Storage) -> list[CompressedLayer]:
    """Replace the plain layers of an empty stock cache by compressed ones, in place, unless already done.

    Layers of other kinds (sliding, recurrent) are left alone. A `DynamicCache()` created without a configuration gets
    the layers of one created with it.

    Args:
        cache: the cache passed to the model.
        config: config of the text model.
        storage: how the compressed layers store keys and values.

    Returns:
        The compressed layers.

    Raises:
        CacheError: the cache was filled without compression or with other storage, or is of a kind that does not grow
            (static, quantised, offloaded).
    """
    if not isinstance(cache, Cache):
        raise CacheError(f"Expected a transformers cache, got {type(cache).__name__}: pass none, or a DynamicCache.")
    if getattr(cache, "offloading", False):
        raise CacheError("An offloaded cache cannot be compressed: leave offloading off, compression caps the memory.")
    if cache.layer_class_to_replicate is DynamicLayer and not cache.get_seq_length():
        cache.layers, cache.layer_class_to_replicate = DynamicCache(config=config).layers, None
    plain = {number: layer for number, layer in enumerate(cache.layers) if type(layer) is DynamicLayer}
    if plain:
        if any(layer.get_seq_length() for layer in plain.values()):
            raise CacheError("The cache was filled without compression: start with a new one inside compress().")
        for number, layer in zip(plain, storage.layers(len(plain)), strict=True):
            cache.layers[number] = layer
    ours = layers_of(cache)
    if not ours:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in cache.layers})) or type(cache).__name__
        raise CacheError(
            f"Nothing to compress in a cache of {kinds}: use the default (dynamic) cache. quantize=4 quantises what a "
            "compressed one holds."
        )
    if ours[0].quantization != storage.quantization:
        held, asked = (canonical(each) for each in (ours[0].quantization, storage.quantization))
        raise CacheError(f"The cache was made with quantize={held!r}, not {asked!r}: continue it with the same.")
    return ours


def layers_of(cache: Cache) -> list[CompressedLayer]:
    """Return the compressed layers of a cache."""
    return [layer for layer in cache.layers if isinstance(layer, CompressedLayer)]


@contextmanager
def all_or_broken(layers: Sequence[CompressedLayer]) -> Iterator[None]:
    """Mark the layers of a cache as broken if a change to all of them fails halfway."""
    try:
        yield
    except BaseException:
        for layer in layers:
            layer.end_pass(failed=True)
        raise
