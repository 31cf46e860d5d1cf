"""Visual tokens that skip layers: the tokens passed to a layer, and the kept states of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.allocation import Share, Shares
from ..cache.eviction import EvictionPlan, plan_eviction
from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..compressor.entries import Entries
from ..compressor.routing import OneVote, Routing
from ..models.base import Adapter


class _Chosen(NamedTuple):
    """The tokens that run through a layer.

    Attributes:
        slots: their slots in the pass, (batch, n) int64; one past its end for rows with fewer tokens than others.
        forward_pass: the pass without the other tokens.
    """

    slots: Tensor
    forward_pass: ForwardPass


class TokenRouting:
    """Routing of one pass.

    A visual token that skips a layer keeps its hidden state and is not cached there. Text runs through every layer.
    """

    def __init__(
        self, adapter: Adapter, layers: Sequence[CompressedLayer], routing: Routing, forward_pass: ForwardPass
    ) -> None:
        """Prepare the routing of a pass.

        Args:
            adapter: adapter of the model.
            layers: compressed layers of the cache.
            routing: fractions of the tokens that run through them, and the selection.
            forward_pass: the whole pass.
        """
        self._adapter = adapter
        self._layers = layers
        self._routing = routing
        self._whole = forward_pass
        self._chosen: dict[int, _Chosen] = {}  # by layer; kept for the pass, since masks are keyed by its parts
        self._entered: dict[int, Tensor] = {}  # hidden states of all tokens, by layer that runs on some of them

    def hooks(self) -> Iterator[tuple[Any, Callable[..., Any], Callable[..., Any]]]:
        """Iterate over the decoder layers that tokens skip, with a hook before and one after each."""
        for number, (attention, share) in enumerate(zip(self._adapter.attentions, self._routing.shares, strict=True)):
            if share < 1:
                module: Any = attention
                layer = self._adapter.text_model.layers[module.layer_idx]
                yield layer, partial(self._before, number), partial(self._after, number)

    def chooses_at(self, number: int) -> bool:
        """Whether a layer's entries determine which tokens run through the next one."""
        return [share < 1 for share in self._routing.shares[number : number + 2]] == [False, True]

    def choose(self, number: int, entries: Entries) -> None:
        """Choose the tokens for the following layers, up to the next one that runs on all.

        Args:
            number: index of the layer.
            entries: the entries of the pass, before any eviction.
        """
        made: dict[Fraction, _Chosen] = {}
        for layer, share in enumerate(self._routing.shares[number + 1 :], number + 1):
            if share == 1:
                return
            if share not in made:
                made[share] = self._choice(entries, share)
            self._chosen[layer] = made[share]

    def _choice(self, entries: Entries, share: Fraction) -> _Chosen:
        rows, whole = self._whole.rows, self._whole
        plan = plan_eviction(entries, rows, self._shares(share), OneVote(self._routing.router))
        slots = plan.slots[:, :1].to(whole.tags.device)
        metadata = Entries(
            whole.places[:, None, :, :0], whole.places[:, None, :, :0], whole.tags[:, None], whole.places[:, None]
        )
        left = EvictionPlan(slots, (), plan.rows).of(metadata)
        slots = slots[:, 0].clone()
        for row, after in enumerate(plan.rows):
            slots[row, : after.padding] = whole.length
        passing = whole.with_metadata(left.tags[:, 0], left.places[:, 0], rows=plan.rows, stock_mask=False)
        return _Chosen(slots, passing)

    def _shares(self, share: Fraction) -> Shares:
        """Return the tokens of each segment that run through a layer: a share of the visual ones, and all labels."""
        return [
            {
                segment: Share(math.ceil(share * count), row.labels.get(segment, {}))
                for segment, count in row.held.items()
            }
            for row in self._whole.rows
        ]

    def _before(self, number: int, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Pass only the chosen tokens to a decoder layer, and their part of the pass to its cache."""
        slots, forward_pass = self._chosen[number]
        self._layers[number].begin_pass(forward_pass)
        states = self._entered[number] = args[0] if args else kwargs["hidden_states"]
        given = {name: _part(name, value, slots) for name, value in kwargs.items()}
        if args:
            return (_tokens(states, slots), *args[1:]), given
        return args, given | {"hidden_states": _tokens(states, slots)}

    def _after(self, number: int, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Merge the states of the chosen tokens into those of the others."""
        changed = output[0] if isinstance(output, tuple) else output
        states = self._entered.pop(number).to(changed.device)
        slots = self._chosen[number].slots.to(states.device)
        spare = torch.cat([states, states[:, :1]], dim=1)  # one more slot, to which padding is written
        joined = spare.scatter_(1, slots[..., None].expand_as(changed), changed.to(states.dtype))[:, :-1]
        return (joined, *output[1:]) if isinstance(output, tuple) else joined


def _part(name: str, value: Any, slots: Tensor) -> Any:
    """Return the part of a decoder layer's argument that belongs to the chosen tokens."""
    if name == "position_ids" and isinstance(value, Tensor):
        return _tokens(value[..., None], slots)[..., 0]
    if name.startswith("position_embeddings") and isinstance(value, tuple):
        return tuple(_tokens(part, slots) for part in value)
    return value


def _tokens(states: Tensor, slots: Tensor) -> Tensor:
    """Gather tokens: (…, batch or 1, n, d) -> (…, batch, m, d); any token in place of padding."""
    slots = slots.to(states.device).clamp_max(states.shape[-2] - 1)
    whole = states.expand(*states.shape[:-3], len(slots), *states.shape[-2:])
    return whole.gather(-2, slots[..., None].expand(*states.shape[:-3], *slots.shape, states.shape[-1]))
