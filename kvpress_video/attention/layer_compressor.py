"""Bring one layer down to what it may hold, right after its attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..cache.eviction import plan_eviction
from ..cache.forward_pass import ForwardPass, RowState
from ..cache.layer import CompressedLayer
from ..compressor.base import Compressor
from ..compressor.entries import Context, Places
from ..compressor.rope import Rope
from ..compressor.tensor_parallel import UNSHARDED, HeadSharding
from ..utils.timing import DeviceTimer
from .queries import last_queries

Shares = Sequence[Mapping[int, int]]


@dataclass(frozen=True)
class LayerCompressor:
    """How layers are compressed.

    Attributes:
        method: does the choosing.
        rope: the rotation of the keys, where something needs it.
        stopwatch: counts `"compress"`.
        spread: how the KV heads are spread over processes.
        image_blocks: whether the tokens of an image see each other both ways.
    """

    method: Compressor
    rope: Rope | None
    stopwatch: DeviceTimer
    spread: HeadSharding = UNSHARDED
    image_blocks: bool = False

    def window(self, chunk: ForwardPass) -> int:
        """How many of the last queries of a pass the method looks at."""
        if not self.method.needs & {"queries", "probe"}:
            return 0
        observer: Any = self.method.observer
        window: int = chunk.probes or (observer.probe if "probe" in self.method.needs else observer.window)
        return window

    def apply(
        self,
        layers: Sequence[CompressedLayer],
        number: int,
        attention: nn.Module,
        states: Tensor,
        chunk: ForwardPass,
        shares: Callable[[Sequence[RowState], int, int], Shares],
    ) -> None:
        """Compress a layer, and let go of the probes.

        Args:
            layers: all of them.
            number: which one.
            attention: its attention module.
            states: what that was given, the newest of it, (batch, n, hidden).
            chunk: the pass in flight.
            shares: from rows, entries held and the layer's number to the entries to keep, per row and segment.
        """
        layer = layers[number]
        with self.stopwatch.timing("compress"):
            context = Context(layer=number, layers=len(layers), rope=self.rope, spread=self.spread)
            entries = layer.entries(context)
            window = self.window(chunk)
            if window and self.rope is not None:
                queries = last_queries(attention, states, entries, self.rope, window, self.image_blocks)
                entries = replace(entries, context=replace(context, queries=queries))
            if chunk.probes:
                entries = entries.slice(0, len(entries) - chunk.probes)
                layer.drop_last(chunk.probes)
            if not chunk.compress:
                return
            layer.keep(plan_eviction(entries, layer.rows, shares(layer.rows, layer.physical, number), self.method))
            if chunk.moves and self.rope is not None:
                layer.move(layer.entries(context).places[..., Places.TARGET], self.rope)


class Peak:
    """The most bytes that the layers held at one moment, as they are filled and compressed one after another.

    Attributes:
        bytes: of keys, values and metadata, all layers together.
    """

    def __init__(self, layers: Sequence[CompressedLayer] = ()) -> None:
        self._held = {layer: layer.bytes for layer in layers}
        self.bytes = sum(self._held.values())

    def note(self, layer: CompressedLayer) -> None:
        """Count a layer that changed."""
        self._held[layer] = layer.bytes
        self.bytes = max(self.bytes, sum(self._held.values()))
