"""Reference logits: the stock model with a 4-D mask that hides evicted entries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.base import Adapter
from ..models.cache_argument import CACHE


class Passes:
    """Entries held by each compressed layer after each pass, for one row without padding.

    Attributes:
        layers: per layer index, the tokens seen after each pass and the token indices held then, (kv_heads, entries).
    """

    def __init__(self, adapter: Adapter) -> None:
        """Prepare to record the compressed layers of an adapter."""
        self.layers: dict[int, list[tuple[int, Tensor]]] = {}
        self._attentions: list[Any] = adapter.attentions
        self._borrowers = adapter.borrowers

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Context manager that records every pass; enter it before the compression hooks are attached."""

        def note(number: int, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            layer = kwargs[CACHE].layers[number]
            self.layers.setdefault(number, []).append((layer.logical, layer.kept[0]))

        with ExitStack() as undo:
            for attention in self._attentions:
                last = [attention, *self._borrowers.get(attention.layer_idx, ())][-1]
                hook = partial(note, attention.layer_idx)
                undo.callback(last.register_forward_hook(hook, with_kwargs=True).remove)
            yield

    @contextmanager
    def hidden(self, dropped: bool = False) -> Iterator[None]:
        """Context manager that masks in the stock model the entries evicted before each query's pass.

        Args:
            dropped: whether they were dropped before the text model, so that no query sees any of them.
        """

        def mask(owner: Any, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            states = args[0] if args else kwargs["hidden_states"]
            seen = kwargs[CACHE].get_seq_length(owner.layer_idx)
            stop = seen + states.shape[1] if module is owner else seen
            blind = self._blind(owner.layer_idx, stop - states.shape[1], stop, states.device, dropped)
            return args, kwargs | {"attention_mask": _without(kwargs.get("attention_mask"), blind, module, states)}

        with ExitStack() as undo:
            for attention in self._attentions:
                for module in (attention, *self._borrowers.get(attention.layer_idx, ())):
                    hook = partial(mask, attention)
                    undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    def _blind(self, number: int, start: int, stop: int, device: torch.device, dropped: bool) -> Tensor:
        """Return the evicted keys of the queries in columns start to stop, (kv_heads, queries, keys) bool."""
        passes = self.layers[number]
        blind = torch.zeros(len(passes[0][1]), stop - start, stop, dtype=torch.bool, device=device)
        first, held = 0, None
        for end, after in passes:
            known, left = (end, after) if dropped else (first, held)
            here = slice(max(first, start) - start, max(min(end, stop), start) - start)
            if left is not None and here.start < here.stop:
                gone = torch.ones(len(left), known, dtype=torch.bool, device=device)
                blind[:, here, :known] = gone.scatter_(1, left.long().to(device), False)[:, None]
            first, held = end, after
        return blind


def _without(given: Tensor | None, blind: Tensor, module: Any, states: Tensor) -> Tensor:
    """Add hidden keys to a stock mask; return (1, heads, queries, keys)."""
    queries, keys = blind.shape[1:]
    groups = getattr(module, "num_key_value_groups", None) or module.config.num_attention_heads // len(blind)
    hidden = blind.repeat_interleave(groups, dim=0)[None]
    if given is None:
        given = torch.ones(queries, keys, dtype=torch.bool, device=states.device).tril(keys - queries)[None, None]
    if given.dtype == torch.bool:
        visible = given & ~hidden
        given = states.new_zeros(visible.shape)
        hidden = ~visible
    return given.expand(hidden.shape).masked_fill(hidden, torch.finfo(states.dtype).min)
