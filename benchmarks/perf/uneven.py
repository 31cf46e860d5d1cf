"""A decoding step where heads hold different numbers of entries, in two forms, and where they hold equal numbers.

    python -m kvpress_video.benchmarks.perf.uneven --tokens 8192 --held 2048

Layers hold random keys and values of `--held` entries per head: *ada* from 40 to 160% of it, stored without gaps;
*masked* the same ones, among all tokens and behind a mask per head; *base* as many in each head. *full* is the stock
model on all tokens. Bytes are those of the storage: keys, values, metadata, masks, and for *ada* the memory in which it
lays out layers. Seconds are CPU time on one thread, or CUDA events, of the forward: the median of interleaved rounds
of eight steps, with quartiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

import kvpress_video as kv
from kvpress_video.cache.adoption import adopt, layers_of
from kvpress_video.cache.storage import Storage, UnevenStorage
from kvpress_video.cache.uneven_layer import UnevenLayer

from .cases.steps import Decoder
from .setup.scales import Bed, bed
from .setup.timing import interleaved, single_thread

_LEAST = 0.4  # of the average, in the head that holds least


class Full(Decoder):
    """A stock cache of all tokens, or of as many as are held.

    Attributes:
        cache: the cache.
    """

    def __init__(self, model: Any, cache: DynamicCache, states: Tensor) -> None:
        """Fill a cache with random states (1, kv_heads, tokens, head_dim)."""
        super().__init__(model, cache)
        for layer in self.cache.layers:
            layer.update(states, states)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(part.nbytes for layer in self.cache.layers for part in (layer.keys, layer.values))


class Masked(Full):
    """A stock cache of all tokens with a mask per head."""

    def __init__(self, model: Any, cache: DynamicCache, states: Tensor, stays: Tensor) -> None:
        super().__init__(model, cache, states)
        mask = torch.zeros(stays.shape, dtype=states.dtype, device=states.device).masked_fill(~stays, -torch.inf)
        groups = model.config.get_text_config().num_attention_heads // stays.shape[1]
        self._mask = mask.repeat_interleave(groups, dim=1)[:, :, None]

    @property
    def bytes(self) -> int:
        """Bytes of keys, values and a mask for each layer."""
        return super().bytes + self._mask.nbytes * len(self.cache.layers)

    @contextmanager
    def _around(self) -> Iterator[None]:
        def hide(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            missing = self.cache.layers[module.layer_idx].get_seq_length() + 1 - self._mask.shape[-1]
            return args, kwargs | {"attention_mask": torch.nn.functional.pad(self._mask, (0, missing))}

        with ExitStack() as undo:
            for layer in self._model.get_decoder().layers:
                undo.callback(layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True).remove)
            yield


class Capped(Decoder):
    """A compressed cache, continued inside a compression that has nothing left to do."""

    def __init__(self, model: Any, states: Tensor, method: str, stays: Tensor | None = None) -> None:
        cache = DynamicCache(config=model.get_decoder().config)
        super().__init__(model, cache)
        self._method = method
        storage = Storage() if stays is None else UnevenStorage()
        for layer in adopt(cache, model.get_decoder().config, storage):
            layer.update(states, states)
            if isinstance(layer, UnevenLayer) and stays is not None:
                layer._buffers.keep_uneven(stays)  # as a method would have left it
            layer.guard(True)

    @property
    def bytes(self) -> int:
        """Bytes of the storage."""
        layers = layers_of(self.cache)
        return sum(layer.bytes for layer in layers) + layers[0].staging_bytes

    def _around(self) -> AbstractContextManager:
        return kv.compress(self._model, self._method, "100%")


def uneven(tokens: int, held: int, heads: int) -> list[int]:
    """Return entries per head, from 40 to 160% of the average, `held * heads` together."""
    counts = [round(held * (_LEAST + (2 - 2 * _LEAST) * head / max(1, heads - 1))) for head in range(heads)]
    counts[-1] += held * heads - sum(counts)
    return [min(count, tokens) for count in counts]


def decoders(where: Bed, model: Any, tokens: int, counts: Sequence[int]) -> dict[str, Any]:
    """Return the decoders to compare."""
    config, heads = model.get_decoder().config, len(counts)
    shape = 1, heads, tokens, model.get_decoder().layers[0].self_attn.head_dim
    states = torch.randn(shape, device=where.device, dtype=model.dtype)
    stays = torch.arange(tokens, device=where.device) < torch.tensor(counts, device=where.device)[None, :, None]
    return {
        "full": Full(model, DynamicCache(config=config), states),
        "masked": Masked(model, DynamicCache(config=config), states, stays),
        "ada": Capped(model, states, "ada:base=key-norm", stays),
        "base": Capped(model, states[:, :, : sum(counts) // heads], "key-norm"),
    }


@torch.no_grad()
def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=8192, help="tokens seen (8192)")
    options.add_argument("--held", type=int, default=2048, help="entries held per head, on average (2048)")
    options.add_argument("--rounds", type=int, default=15, help="rounds of eight steps (15)")
    options.add_argument("--scale", help="tiny, laptop or 7b (default: 7b on a GPU, else laptop)")
    asked = options.parse_args()
    where = bed(asked.scale).deep()
    model = where.model()[0]
    model.set_attn_implementation("sdpa")
    counts = uneven(asked.tokens, asked.held, model.config.get_text_config().num_key_value_heads)
    kinds = decoders(where, model, asked.tokens, counts)
    with single_thread():
        taken = interleaved({name: kind.step_seconds for name, kind in kinds.items()}, asked.rounds)
    layers = len(kinds["full"].cache.layers)
    print(f"{where.name}, {where.device}: {layers} layers, {asked.tokens} tokens, {counts} entries in the heads")
    for name, kind in kinds.items():
        low, middle, high = (1e3 * each for each in quantiles(taken[name], n=4))
        print(f"{name:8} {kind.bytes / 2**20:8.2f} MiB {middle:8.2f} ms per step ({low:.2f} to {high:.2f})")
    print(f"of which ada lays layers out in {layers_of(kinds['ada'].cache)[0].staging_bytes / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
