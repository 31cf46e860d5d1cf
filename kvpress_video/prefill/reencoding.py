"""Re-encode frames of a cache, with only the text before them in context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ..cache.exchange import exchange, slots_of
from ..cache.layer import CompressedLayer
from ..compressor.base import Compressor
from ..compressor.entries import Context, Kind
from ..errors import BudgetError, UnsupportedModelError
from ..models.base import Adapter
from ..models.cache_argument import CACHE


@dataclass(frozen=True)
class FrameStates:
    """Inputs of the text model for consecutive frames of one video, including their labels.

    Attributes:
        index: original token index of each token, ascending, (n,) int64, on the host.
        frames: frame of each token, (n,) int64, on the host.
        visual: which tokens are patches, (n,) bool, on the host.
        embeddings: (n, hidden).
        aligned: deepstack features, (n, levels·d), zero for labels; of width 0 without any.
    """

    index: Tensor
    frames: Tensor
    visual: Tensor
    embeddings: Tensor
    aligned: Tensor

    @property
    def bytes(self) -> int:
        """Bytes of embeddings and deepstack features."""
        return sum(part.numel() * part.element_size() for part in (self.embeddings, self.aligned))

    def where(self, chosen: Tensor) -> FrameStates:
        """Return copies of some tokens, `chosen` (n,) bool on the host."""
        parts = (getattr(self, field.name) for field in fields(self))
        return FrameStates(*(part[chosen.to(part.device)] for part in parts))

    def newest(self, count: int) -> FrameStates:
        """Return the tokens of the last `count` frames."""
        last = int(self.frames[-1]) if len(self.frames) else 0
        return self.where(self.frames > last - count)

    def followed_by(self, later: FrameStates) -> FrameStates:
        """Return these tokens followed by later ones."""
        pairs = ((getattr(self, field.name), getattr(later, field.name)) for field in fields(self))
        return FrameStates(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class NewStates:
    """Keys and values of tokens of one row.

    Attributes:
        row: row of the batch.
        index: original token indices, ascending, (n,) int64.
        layers: keys and values of each compressed layer, (kv_heads, n, head_dim) each.
    """

    row: int
    index: Tensor
    layers: list[tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(part.numel() * part.element_size() for states in self.layers for part in states)


def check_exchangeable(adapter: Adapter, method: Compressor) -> None:
    """Check that entries can be exchanged while a question is answered.

    Raises:
        UnsupportedModelError: the model does not support it.
        BudgetError: heads keep different numbers of entries, or tokens skip layers.
    """
    if method.uneven or type(method).routing is not Compressor.routing:
        raise BudgetError(
            f"{type(method).__name__} leaves different tokens in different heads or layers, so its base cannot "
            "exchange what the cache holds for a question: choose a base other than 'fresh', 'rekv' and 'focus'."
        )
    if adapter.sliding or adapter.recurrences or adapter.borrowers or adapter.spread.processes > 1:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} has sliding, recurrent or shared layers, or is shared by processes, where "
            f"{type(method).__name__} cannot exchange what the cache holds for a question: choose its base."
        )


@torch.no_grad()
def encode_anew(
    forward: Callable[..., Any],
    adapter: Adapter,
    layers: Sequence[CompressedLayer],
    row: int,
    states: FrameStates,
    arguments: Callable[[FrameStates], Mapping[str, Any]],
    spatial: bool,
) -> NewStates | None:
    """Run frames through the text model with only the text before them in context, at their cached positions.

    Frames with an evicted patch in some layer or head, and all earlier frames, are omitted, as are evicted labels.

    Args:
        forward: the text model's own forward, without hooks.
        adapter: adapter of the model.
        layers: compressed layers of the cache.
        row: row of the batch.
        states: the frames.
        arguments: returns further arguments of the text model for some of the tokens.
        spatial: whether positions have three axes.

    Returns:
        Their new keys and values; None if no frame is complete.
    """
    states = _whole(layers, row, states)
    if not len(states.index):
        return None
    cache = DynamicCache()
    modules: Sequence[Any] = adapter.attentions
    for attention, layer in zip(modules, layers, strict=True):
        entries = layer.entries(Context())
        text = (entries.kind[row] == Kind.TEXT) & (entries.index[row] < int(states.index[0]))
        if text.any():
            prompt = (part[row][text].unflatten(0, (len(text), -1))[None] for part in (entries.keys, entries.values))
            cache.update(*prompt, attention.layer_idx)
    first = layers[0].entries(Context())
    position = first.present[row, 0][slots_of(first.index[row], states.index)[0]]
    axes = (position.long() if bool((position == position.round()).all()) else position).T[:, None]
    forward(
        **{
            **arguments(states),
            "inputs_embeds": states.embeddings[None],
            "position_ids": axes if spatial else axes[0],
            CACHE: cache,
            "use_cache": True,
        }
    )
    count = len(states.index)
    made = (cache.layers[attention.layer_idx] for attention in modules)
    return NewStates(row, states.index, [(layer.keys[0, :, -count:], layer.values[0, :, -count:]) for layer in made])


@contextmanager
def exchanged(layers: Sequence[CompressedLayer], states: NewStates) -> Iterator[None]:
    """Context manager that replaces keys and values of some tokens, even if entries are appended meanwhile."""
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for layer, new in zip(layers, states.layers, strict=True):
            before.append(exchange(layer, states.row, states.index, *new))
        yield
    finally:
        put(layers, replace(states, layers=before))


def put(layers: Sequence[CompressedLayer], states: NewStates) -> None:
    """Put keys and values into the first layers, as far as there are any."""
    for layer, new in zip(layers, states.layers, strict=False):
        exchange(layer, states.row, states.index, *new)


def _whole(layers: Sequence[CompressedLayer], row: int, states: FrameStates) -> FrameStates:
    """Return the newest frames of which every layer and head holds all patches, without evicted labels."""
    held = torch.ones_like(states.visual)
    for layer in layers:
        index = layer.entries(Context()).index[row]
        found = index.gather(1, slots_of(index, states.index)) == states.index.to(index)
        held &= found.all(dim=0).cpu()
    broken = states.frames[states.visual & ~held]
    first = int(broken.max()) + 1 if len(broken) else 0
    return states.where(held & (states.frames >= first))
