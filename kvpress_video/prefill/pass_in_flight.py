"""One pass of the text model in flight: the hooks on its attention modules, and the state that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention.layer_compressor import LayerCompressor, PeakBytes
from ..attention.masks import FLASH, brings_images, keeps_stock_mask, layer_mask, newest_queries
from ..attention.recurrent import follow_rows
from ..attention.sliding_window import SlidingPass, tokens_seen
from ..cache.allocation import BudgetAllocator
from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..compressor.base import deferred
from ..compressor.entries import LayerScores
from ..models.base import Adapter
from ..models.cache_argument import CACHE
from ..models.routing import mixtures
from ..utils.concurrency import entered
from .fewer_experts import FewerExperts
from .shared import RecordedLayer, RecordedPrefill
from .text_transfer import TextTransfer
from .token_routing import TokenRouting


class RunLayer(NamedTuple):
    """A layer whose attention has run.

    Attributes:
        attention: its attention module.
        layer: the cache layer, which holds the pass.
        states: the newest hidden states passed to the attention, (batch, n, hidden).
    """

    attention: Any
    layer: CompressedLayer
    states: Tensor


@dataclass
class PassInFlight:
    """A pass from the layout of its tokens until the text model returns.

    Attributes:
        adapter: adapter of the model.
        compressor: applies the method to a layer.
        layers: compressed layers of the cache.
        forward_pass: the tokens of the pass.
        allocator: allocates the entries of each layer; None if no layer is compressed.
        peak: measures the layers around each compression.
        recording: records the input of every layer, for later prefills of the same prompt.
        routing: visual tokens that skip layers; None if there are none.
        experts: number of experts per visual token; None for as many as for text.
        transfer: collects the evicted entries of one layer, for the text to read.
    """

    adapter: Adapter
    compressor: LayerCompressor
    layers: Sequence[CompressedLayer]
    forward_pass: ForwardPass
    allocator: BudgetAllocator | None
    peak: PeakBytes
    recording: RecordedPrefill | None = None
    routing: TokenRouting | None = None
    experts: int | None = None
    transfer: TextTransfer | None = None
    _waiting: list[RunLayer] = field(default_factory=list)  # layers to compress after the last one has run
    _masks: dict[tuple, Tensor | None] = field(default_factory=dict)  # equal layers share one
    _lent: dict[int, dict[str, Any]] = field(default_factory=dict)  # arguments of attentions whose cache others read

    def run(self, forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Call the text model with the hooks that the pass needs.

        Errors of the call are re-raised, after the cache is marked as broken.

        Args:
            forward: the text model's own forward.
            kwargs: its arguments.
        """
        by_layer = not self._set_common_mask(kwargs)
        with self._announced():
            if not by_layer and not self._hooks_layers:
                return forward(**kwargs)
            with self._hooked(by_layer):
                output = forward(**kwargs)
            self._compress_waiting()
        return output

    @property
    def _hooks_layers(self) -> bool:
        """Whether modules of the text model need hooks even if one mask fits all layers. Decoding needs none."""
        adapter, forward_pass = self.adapter, self.forward_pass
        visual = forward_pass.compress or forward_pass.probes or self.experts or self.transfer
        return bool(visual or adapter.sliding or adapter.recurrences)

    def replay(self, recorded: Sequence[RecordedLayer]) -> None:
        """Fill the layers with the recorded states of an equal pass, and compress each."""
        with self._announced():
            for layer, given in zip(self.layers, recorded, strict=True):
                layer.update(given.keys, given.values)
                self.compress(given.attention, layer, given.states)
            self._compress_waiting()

    @contextmanager
    def _announced(self) -> Iterator[None]:
        """Announce the pass to the layers; if it fails, the cache is marked as broken."""
        failed = True
        try:
            for layer in self.layers:
                layer.begin_pass(self.forward_pass)
            yield
            failed = False
        finally:
            for layer in self.layers:
                layer.end_pass(failed)

    def _set_common_mask(self, kwargs: dict[str, Any]) -> bool:
        """Pass the text model one mask for all layers, which saves a hook on each; return whether one fits all."""
        adapter, first, given = self.adapter, self.layers[0], kwargs.get("attention_mask")
        if self.routing or not adapter.one_mask or isinstance(given, Mapping) or not self._layers_alike():
            return False
        padded = first.padded or any(row.padding for row in self.forward_pass.rows)
        if self.forward_pass.length == 1 and not padded:
            kwargs["attention_mask"] = None  # a single query sees every held entry
            return True
        implementation = adapter.text_model.config._attn_implementation
        if implementation in FLASH or adapter.recurrences or adapter.dispatched:
            return False
        blocks = adapter.image_blocks
        if not keeps_stock_mask(first, self.forward_pass, given, blocks):
            states = kwargs["inputs_embeds"]
            arguments = (implementation, states, blocks, adapter.text_model.config.num_attention_heads)
            kwargs["attention_mask"] = layer_mask(first, self.forward_pass, None, *arguments)
        return True

    def _layers_alike(self) -> bool:
        first = self.layers[0]
        length, rows = first.physical, first.rows
        for layer in self.layers:
            if layer.uneven or layer.physical != length or (layer.rows is not rows and layer.rows != rows):
                return False
        return True

    def compress(self, attention: Any, layer: CompressedLayer, states: Tensor) -> None:
        """Compress a layer that holds the pass, now or after the last layer.

        Args:
            attention: its attention module.
            layer: the layer.
            states: input of the attention, (batch, n, hidden).
        """
        self.peak.note(layer)
        if not deferred(self.compressor.method):
            self._apply(RunLayer(attention, layer, states))
            return
        last = max(1, self.compressor.states_read(_pass_of(layer)))
        self._waiting.append(RunLayer(attention, layer, states[:, -last:].clone()))

    def _compress_waiting(self) -> None:
        """Compress the waiting layers from the deepest to the first, each with the scores of the next deeper one."""
        scores: LayerScores | None = None
        while self._waiting:
            scores = self._apply(self._waiting.pop(), scores)

    def _apply(self, run: RunLayer, deeper: LayerScores | None = None) -> LayerScores | None:
        assert self.allocator is not None
        forward_pass, number = _pass_of(run.layer), self.layers.index(run.layer)
        entries = self.compressor.held(self.layers, run.layer, run.attention, run.states, forward_pass, deeper)
        if self.routing is not None and self.routing.chooses_at(number):
            self.routing.choose(number, entries.slice(len(entries) - forward_pass.length, len(entries)))
        collects = self.transfer is not None and number == self.transfer.number
        evicting = self.transfer.collect if self.transfer is not None and collects else None
        scores = self.compressor.apply(run.layer, entries, forward_pass, self.allocator.shares, evicting)
        self.peak.note(run.layer)
        return scores

    @contextmanager
    def _hooked(self, by_layer: bool) -> Iterator[None]:
        """Register the hooks before all others, so that other hooks see the actual masks.

        A layer whose cache other layers read is compressed after the last of them.
        """
        adapter, forward_pass = self.adapter, self.forward_pass
        before: list[tuple[Any, Any]] = []
        after: list[tuple[Any, Any]] = []
        if by_layer:
            before += [(attention, self._before_attention) for attention in adapter.attentions]
        if adapter.sliding:
            sliding = SlidingPass(adapter, tokens_seen(self.layers[0]), forward_pass)
            before += [(attention, sliding.before_attention) for attention in adapter.sliding]
            before += [(each, sliding.before_borrower) for each in _borrowers(adapter, adapter.sliding)]
        if self.transfer is not None:
            after.append((adapter.attentions[self.transfer.number], self._hand_over))  # after the compressing hook
        for attention in adapter.attentions if forward_pass.compress or forward_pass.probes else ():
            borrowers = _borrowers(adapter, [attention])
            after += [((borrowers or [attention])[-1], partial(_uncompiled(), self, attention))]
        for attention in adapter.attentions if by_layer or after else ():
            borrowers = _borrowers(adapter, [attention])
            before += [(attention, self._lend)] * bool(borrowers)
            before += [(each, partial(self._before_borrower, attention)) for each in borrowers if by_layer]
        for module, enter, leave in self.routing.hooks() if self.routing else ():
            before.append((module, enter))
            after.append((module, leave))
        with entered(
            [
                *(_registered(attention.register_forward_pre_hook, hook) for attention, hook in reversed(before)),
                *(_registered(attention.register_forward_hook, hook) for attention, hook in after),
                *(follow_rows(each, number, forward_pass) for number, each in adapter.recurrences.items()),
                *self._fewer_experts(),
            ]
        ):
            yield

    def _fewer_experts(self) -> Iterator[AbstractContextManager[None]]:
        if self.experts is None or not brings_images(self.forward_pass):
            return
        attentions: list[Any] = self.adapter.attentions
        layers = {each.layer_idx: layer for each, layer in zip(attentions, self.layers, strict=True)}
        fewer = FewerExperts(self.experts, lambda number: _pass_of(layers[number]) if number in layers
                             else self.forward_pass)  # fmt: skip
        yield from map(fewer.attached, mixtures(self.adapter, self.experts))

    def _before_attention(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        layer = kwargs[CACHE].layers[module.layer_idx]
        if isinstance(layer, CompressedLayer):
            kwargs["attention_mask"] = self._mask(layer, module, kwargs)
            if "position_ids" in kwargs:
                kwargs["position_ids"] = None  # only read by flash attention, which treats gaps as packed sequences
        return args, kwargs

    def _lend(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self._lent[module.layer_idx] = kwargs

    def _before_borrower(
        self, owner: Any, module: Any, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        mask = newest_queries(self._lent[owner.layer_idx]["attention_mask"], kwargs["hidden_states"])
        return args, kwargs | {"attention_mask": mask, "position_ids": None}

    def _mask(self, layer: CompressedLayer, module: Any, kwargs: dict[str, Any]) -> Tensor | None:
        states, forward_pass = kwargs["hidden_states"], _pass_of(layer)
        alike = (layer.span, layer.paddings, states.device, id(forward_pass))
        if alike not in self._masks:
            implementation, blocks = module.config._attn_implementation, self.adapter.image_blocks
            given = kwargs.get("attention_mask")
            arguments = (implementation, states, blocks, module.config.num_attention_heads)
            self._masks[alike] = layer_mask(layer, forward_pass, given, *arguments)
        return self._masks[alike]

    def _after_attention(self, attention: Any, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Compress the layer of `attention` after `module`: itself, or the last module that reads its cache."""
        module, kwargs = attention, self._lent.pop(attention.layer_idx, kwargs)
        layer = kwargs[CACHE].layers[module.layer_idx]
        if not isinstance(layer, CompressedLayer):
            return
        if self.recording is not None:
            window = self.compressor.states_read(self.forward_pass)
            self.recording.note(module, layer, kwargs["hidden_states"], window)
        self.compress(module, layer, kwargs["hidden_states"])

    def _hand_over(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Let text read the layer's evicted entries."""
        assert self.transfer is not None
        if not self.transfer.reads(self.forward_pass):
            return output
        return (self.transfer.read(module, kwargs["hidden_states"], self.forward_pass, output[0]), *output[1:])


def _pass_of(layer: CompressedLayer) -> ForwardPass:
    """Return the pass without the tokens that skip a layer."""
    assert layer.incoming is not None
    return layer.incoming


def _borrowers(adapter: Adapter, attentions: Sequence[Any]) -> list[Any]:
    """Return the modules that read the caches of attentions."""
    borrowers = adapter.borrowers
    return [each for attention in attentions for each in borrowers.get(attention.layer_idx, ())] if borrowers else []


@contextmanager
def _registered(register: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@cache
def _uncompiled() -> Callable[..., None]:
    """Return the compressing hook, which `torch.compile` does not trace: layers may be compiled."""
    hook: Callable[..., None] = torch.compiler.disable(PassInFlight._after_attention)
    return hook
