"""The hooks: they follow a pass through the text model and compress each layer's cache right after its attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import DynamicCache

from .allotment import Allotment
from .budget import Budget
from .cache import Chunk, CompressedLayer, Row, adopt
from .capture import last_queries
from .compressor import Compressor
from .entries import Context, Entries, Places
from .errors import CacheError, UnsupportedModelError
from .masks import check_attention, layer_mask
from .models.base import Adapter
from .passes import PassReader
from .reduce import reduce_entries
from .vision import VisionWatch


class Attachment:
    """One method, with one budget, on one model."""

    def __init__(
        self,
        adapter: Adapter,
        method: Compressor,
        budget: Budget,
        stage: str,
        compact: bool,
        finished: Callable[[list[CompressedLayer]], None],
    ) -> None:
        """Args:
        finished: called with the cache layers after every pass that brought visual tokens.
        """
        self._adapter = adapter
        self._method = method
        self._stage = stage
        self._compact = compact
        self._finished = finished
        rotates = compact or method.needs & {"queries", "rope"}
        self._rope = adapter.rope() if rotates else None
        standby: Any = method.observer if "vision_attention" in method.needs else None
        self._vision = VisionWatch(adapter, standby)
        self._reader = PassReader(adapter, self._vision, self._rope if compact else None)
        self._allotment = Allotment(budget, method, len(adapter.attentions), adapter.entry_bytes(compact))
        self._layers: list[CompressedLayer] = []
        self._chunk: Chunk | None = None
        self._visual = False
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Put the hooks on.

        Raises:
            UnsupportedModelError: another compression is on this model, or its attention cannot be served.
        """
        text = self._adapter.text_model
        check_attention(text.config._attn_implementation)
        owners = (getattr(hook, "__self__", None) for hook in text._forward_pre_hooks.values())
        if any(isinstance(owner, Attachment) for owner in owners):
            raise UnsupportedModelError("This model is being compressed already: leave that compression first.")
        self._vision.attach()
        self._handles = [
            self._adapter.inner.register_forward_pre_hook(self._reader.note_ids, with_kwargs=True),
            text.register_forward_pre_hook(self._before_text, with_kwargs=True),
            text.register_forward_hook(self._after_text, always_call=True),
        ]
        for attention in self._adapter.attentions:
            self._handles += [
                attention.register_forward_pre_hook(self._before_attention, with_kwargs=True),
                attention.register_forward_hook(self._after_attention, with_kwargs=True),
            ]

    def remove(self) -> None:
        """Take everything off again; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._vision.remove()

    def _before_text(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            raise UnsupportedModelError("The text model was called with positional arguments: pass them by name.")
        if kwargs.get("use_cache") is False:
            raise CacheError("use_cache=False leaves no cache to compress: leave it on inside compress().")
        if kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = DynamicCache(config=module.config)
        self._layers = adopt(kwargs["past_key_values"], len(self._adapter.attentions))
        first = self._layers[0]
        rows = first.rows or [Row()] * len(kwargs["inputs_embeds"])
        chunk = self._reader.read(kwargs, first, rows)
        self._visual = chunk.compress
        if chunk.compress:
            after = [row.after(new) for row, new in zip(rows, chunk.rows, strict=True)]
            shares = self._shares(after, first.physical + chunk.tags.shape[1], None)
            if self._compact:
                chunk = self._reader.place(chunk, rows, after, shares)
            if self._stage == "input":
                chunk = self._drop(kwargs, chunk, rows, shares)
        self._chunk = chunk
        for layer in self._layers:
            layer.incoming = chunk
        return args, kwargs

    def _shares(self, rows: Sequence[Row], length: int, layer: int | None) -> list:
        text = [length - row.padding - sum(row.held.values()) for row in rows]
        return [self._allotment.shares(row, count, len(rows), layer) for row, count in zip(rows, text, strict=True)]

    def _drop(self, kwargs: dict[str, Any], chunk: Chunk, rows: Sequence[Row], shares: Sequence) -> Chunk:
        """Drop or merge visual embeddings before the text model sees them; the cache still counts them as seen."""
        for row, share in zip(rows, shares, strict=True):
            if any(share[segment] < held for segment, held in row.held.items()):
                raise CacheError(
                    "stage='input' cannot shrink earlier videos to make room: use a ratio or stage='cache'."
                )
        embeddings = kwargs["inputs_embeds"][:, None]
        aligned = self._adapter.take_aligned(kwargs)
        values = embeddings[..., :0] if aligned is None else aligned[:, None]
        entries = Entries(embeddings, values, chunk.tags[:, None], chunk.places[:, None], Context())
        mine = [
            {segment: share[segment] for segment in new.held} for share, new in zip(shares, chunk.rows, strict=True)
        ]
        entries, kept = reduce_entries(entries, chunk.rows, mine, self._method)
        kwargs["inputs_embeds"] = entries.keys[:, 0]
        self._adapter.put_aligned(kwargs, entries)
        places = self._reader.shorten(kwargs, entries, kept, self._layers[0])
        return replace(chunk, tags=entries.tags[:, 0], places=places, rows=kept, compress=False)

    def _before_attention(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if self._chunk is not None and isinstance(layer, CompressedLayer):
            kwargs["attention_mask"] = layer_mask(
                layer,
                self._chunk,
                kwargs.get("attention_mask"),
                module.config._attn_implementation,
                kwargs["hidden_states"].dtype,
            )
            if "position_ids" in kwargs:
                kwargs["position_ids"] = None  # only read by flash attention, which takes gaps for packed sequences
        return args, kwargs

    def _after_attention(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if self._chunk is None or not self._chunk.compress or not isinstance(layer, CompressedLayer):
            return
        number = self._layers.index(layer)
        context = Context(layer=number, layers=len(self._layers), rope=self._rope)
        entries = layer.entries(context)
        if "queries" in self._method.needs and self._rope is not None:
            observer: Any = self._method.observer
            queries = last_queries(module, kwargs["hidden_states"], entries, self._rope, observer.window)
            entries = replace(entries, context=replace(context, queries=queries))
        shares = self._shares(layer.rows, layer.physical, number)
        entries, rows = reduce_entries(entries, layer.rows, shares, self._method)
        if self._compact and self._rope is not None:
            entries = _moved(entries, self._rope)
        layer.replace(entries, rows)

    def _after_text(self, module: nn.Module, args: tuple, output: Any) -> None:
        for layer in self._layers:
            layer.incoming = None
        self._chunk = None
        if output is None or not self._visual:
            return
        uneven = len({layer.physical for layer in self._layers}) > 1
        for layer in self._layers:
            layer.guarded = uneven or layer.padded or any(row.shift for row in layer.rows)
        self._finished(self._layers)


def _moved(entries: Entries, rope: Any) -> Entries:
    """Keys re-rotated from where they are to where they belong."""
    target: Tensor = entries.places[..., Places.TARGET]
    keys = rope.rotate(entries.keys, target - entries.present)
    places = torch.cat([entries.places[..., : Places.WIDTH], target, target], dim=-1)
    return replace(entries, keys=keys, places=places)
