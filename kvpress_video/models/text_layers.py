"""Classification of text layers by the cache layer that each of them writes."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from .cache_argument import CACHE, STATES
from .items import encoders_of

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
RECURRENT = frozenset({"linear_attention", "conv"})
SHARED = "shared"
WITHOUT_CACHE = frozenset({"mlp", "moe", SHARED})
_DECODERS = ("language_model", "text_model")
_OTHER_STATES = {"cross_attention_states", "key_value_states"}


class CannotServe(Exception):
    """An unsupported part of a model, described by a main clause."""


def text_model_of(model: Any) -> Any:
    """Return the decoder of a model: the module below its language-model heads.

    Raises:
        CannotServe: the decoder is not a separate module.
    """
    decoder = model.get_decoder()
    while decoder is not model and getattr(decoder, "get_output_embeddings", lambda: None)() is not None:
        below = decoder.get_decoder()
        if below is decoder:
            break
        decoder = below
    while encoders_of(decoder) and (inside := [*filter(None, (getattr(decoder, name, None) for name in _DECODERS))]):
        decoder = inside[0]  # get_decoder() of transformers 4 stops at the module around it
    if encoders_of(decoder):
        raise CannotServe(
            "its decoder encodes images itself, so that their embeddings cannot be told from those of text"
        )
    if decoder is model or "inputs_embeds" not in inspect.signature(decoder.forward).parameters:
        raise CannotServe("its decoder is not a separate module that accepts inputs_embeds")
    return decoder


def layer_kinds(config: Any) -> list[str]:
    """Return the type of each text layer, from the layers of its stock cache.

    Args:
        config: config of the text model.

    Returns:
        `"full_attention"` for plain dynamic layers, `"sliding_attention"` for sliding windows, `"shared"` for layers
        that read the cache of another, else the type in the configuration or the class of the cache layer.
    """
    layers = DynamicCache(config=config).layers
    words: Sequence[str | None] = getattr(config, "layer_types", None) or [None] * len(layers)
    found = [_kind(layer, word) for layer, word in zip(layers, words, strict=False)]
    return found + [SHARED] * (len(words) - len(layers))  # the last layers may have no cache of their own


def _kind(layer: Any, word: str | None) -> str:
    if type(layer) is DynamicLayer:
        return FULL
    if type(layer) is DynamicSlidingWindowLayer:
        return SLIDING if word is None else word
    if type(layer).__name__ == "DummyLayer" and word in (FULL, SLIDING):
        return SHARED
    return type(layer).__name__ if word in (None, FULL, SLIDING) else str(word)


def attention_modules(text_model: nn.Module) -> Mapping[int, nn.Module]:
    """Return the attention modules by layer index: the innermost modules that accept a cache.

    Raises:
        CannotServe: several modules share an index, or a module is cross attention or sparse attention.
    """
    found: dict[int, list[nn.Module]] = defaultdict(list)
    for module in text_model.modules():
        number: Any = getattr(module, "layer_idx", None)
        if isinstance(number, int) and _takes_cache(module):
            outer = [other for other in found[number] if any(part is module for part in other.modules())]
            found[number] = [other for other in found[number] if other not in outer] + [module]
    for number, modules in found.items():
        if len(modules) > 1:
            names = ", ".join(dict.fromkeys(type(module).__name__ for module in modules))
            raise CannotServe(f"layer {number} has several modules that accept a cache ({names})")
        module = modules[0]
        if _OTHER_STATES & inspect.signature(module.forward).parameters.keys():
            raise CannotServe(f"layer {number} is cross attention")
        if getattr(module, "indexer", None) is not None:
            raise CannotServe(f"layer {number} selects keys with an indexer (sparse attention)")
    return {number: modules[0] for number, modules in sorted(found.items())}


def borrowing_modules(modules: Mapping[int, nn.Module]) -> Mapping[int, list[nn.Module]]:
    """Return the attention modules that reuse the keys and values of another layer (shared KV), by that layer's index.

    Args:
        modules: all attention modules by layer index.

    Raises:
        CannotServe: the layer that a module reads cannot be determined.
    """
    owners: dict[Any, int] = {}
    found: dict[int, list[nn.Module]] = defaultdict(list)
    for number, module in modules.items():
        kind: Any = getattr(module, "layer_type", None)
        if getattr(module, "store_full_length_kv", False):
            owners[kind] = number
        if getattr(module, "is_kv_shared_layer", False):
            named: Any = getattr(module, "kv_shared_layer_index", None)
            owner = owners.get(kind) if named is None else named
            if owner is None:
                raise CannotServe(f"layer {number} reuses the keys and values of a layer that cannot be told")
            found[owner].append(module)
    return found


def recurrent_modules(text_model: nn.Module, kinds: Sequence[str]) -> Mapping[int, nn.Module]:
    """Return the recurrent modules by layer index, those with the signature that `follow_rows` expects.

    Args:
        text_model: the decoder.
        kinds: type of each of its layers.
    """
    wanted = {"hidden_states", STATES, "attention_mask"}
    recurrent = {number for number, kind in enumerate(kinds) if kind in RECURRENT}
    found: dict[int, nn.Module] = {}
    for module in text_model.modules():
        number: Any = getattr(module, "layer_idx", None)
        if number in recurrent and wanted <= inspect.signature(module.forward).parameters.keys():
            found[number] = module
    return found


def _takes_cache(module: nn.Module) -> bool:
    parameters = inspect.signature(module.forward).parameters
    return "hidden_states" in parameters and (CACHE in parameters or "past_key_value" in parameters)
