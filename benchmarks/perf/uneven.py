"""A decoding step where heads keep different numbers of entries, in three forms, and where they keep equal numbers.

    python -m kvpress_video.benchmarks.perf.uneven --tokens 4096 --budget 25%

*ada* frees what heads do not keep. *masked* holds everything, and a mask per head hides the same entries. *base* keeps
as many in each head. *full* is the stock model. Bytes are those of the storage, metadata and masks included, and of ada
the memory in which layers are laid out; seconds are CPU time on one thread, or CUDA events, of the forward: the median
of interleaved rounds with quartiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.adoption import layers_of

from .cases.steps import Decoder
from .setup.prompts import video_prompt
from .setup.scales import bed
from .setup.text_prefill import COLUMNS, ROWS
from .setup.timing import interleaved, single_thread


class Capped(Decoder):
    """A cache that a method compressed, continued inside its compression.

    Attributes:
        kept: original index of each entry, by layer, (1, kv_heads, entries).
    """

    def __init__(self, model: Any, prompt: dict[str, Tensor], method: str, budget: str) -> None:
        with kv.compress(model, method, budget) as run:
            output = model.generate(**prompt, max_new_tokens=1, return_dict_in_generate=True)
        super().__init__(model, output.past_key_values)
        self.kept = run.kept
        self._asked = method, budget

    @property
    def bytes(self) -> int:
        """Bytes of the storage."""
        layers = layers_of(self.cache)
        return sum(layer.bytes for layer in layers) + layers[0].staging_bytes

    def _around(self) -> AbstractContextManager:
        return kv.compress(self._model, *self._asked)


class Full(Decoder):
    """A stock cache of everything, of which a mask may hide entries from the heads of each layer."""

    def __init__(self, model: Any, prompt: dict[str, Tensor], kept: list[Tensor] | None = None) -> None:
        output = model.generate(**prompt, max_new_tokens=1, return_dict_in_generate=True)
        super().__init__(model, output.past_key_values)
        groups = model.config.get_text_config().num_attention_heads // self.cache.layers[0].keys.shape[1]
        length, dtype = self.cache.get_seq_length(), model.dtype
        self._masks = [_mask(layer, length, groups, dtype) for layer in kept or ()]

    @property
    def bytes(self) -> int:
        """Bytes of keys, values and masks."""
        parts = [part for layer in self.cache.layers for part in (layer.keys, layer.values)]
        return sum(part.nbytes for part in [*parts, *self._masks])

    @contextmanager
    def _around(self) -> Iterator[None]:
        def hide(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            mask = self._masks[module.layer_idx]
            missing = self.cache.get_seq_length() + 1 - mask.shape[-1]
            return args, kwargs | {"attention_mask": torch.nn.functional.pad(mask, (0, missing))}

        with ExitStack() as undo:
            for layer in self._model.get_decoder().layers if self._masks else ():
                undo.callback(layer.self_attn.register_forward_pre_hook(hide, with_kwargs=True).remove)
            yield


def _mask(kept: Tensor, length: int, groups: int, dtype: torch.dtype) -> Tensor:
    """Return what hides all entries but those kept of the first tokens, (1, attention heads, 1, length)."""
    mask = torch.full((kept.shape[1], length), -torch.inf, dtype=dtype, device=kept.device)
    for row, index in zip(mask, kept[0].long(), strict=True):
        row[index[index >= 0]] = 0
    mask[:, int(kept.max()) + 1 :] = 0  # what came after the last compression
    return mask.repeat_interleave(groups, dim=0)[None, :, None]


@torch.no_grad()
def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tokens", type=int, default=4096, help=f"visual tokens, a multiple of {ROWS * COLUMNS}")
    options.add_argument("--budget", default="25%", help="ratio that is kept (25%%)")
    options.add_argument("--base", default="key-norm", help="method that scores (key-norm)")
    options.add_argument("--rounds", type=int, default=15, help="rounds of eight steps (15)")
    options.add_argument("--scale", help="tiny, laptop or 7b (default: 7b on a GPU, else laptop)")
    asked = options.parse_args()
    where = bed(asked.scale).deep()
    model = where.model()[0]
    model.set_attn_implementation("sdpa")
    prompt = video_prompt(model, asked.tokens // (ROWS * COLUMNS), ROWS, COLUMNS)
    ada = Capped(model, prompt, f"ada:base={asked.base}", asked.budget)
    kinds: dict[str, Any] = {
        "full": Full(model, prompt),
        "masked": Full(model, prompt, ada.kept),
        "ada": ada,
        "base": Capped(model, prompt, asked.base, asked.budget),
    }
    with single_thread():
        taken = interleaved({name: kind.step_seconds for name, kind in kinds.items()}, asked.rounds)
    counts = [(layer >= 0).sum(dim=-1).flatten().tolist() for layer in ada.kept]
    print(f"{where.name}, {where.device}, {asked.tokens} visual tokens at {asked.budget}")
    print(f"entries per head: {min(map(min, counts))} to {max(map(max, counts))}")
    for name, kind in kinds.items():
        low, middle, high = (1e3 * each for each in quantiles(taken[name], n=4))
        print(f"{name:8} {kind.bytes / 2**20:8.2f} MiB {middle:8.2f} ms per step ({low:.2f} to {high:.2f})")
    print(f"laid out {layers_of(ada.cache)[0].staging_bytes / 2**20:8.2f} MiB of ada's")


if __name__ == "__main__":
    main()
