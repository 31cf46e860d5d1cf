"""Compress one cache layer right after its attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ..cache.allocation import Shares
from ..cache.eviction import Evicting
from ..cache.forward_pass import ForwardPass, RowState
from ..cache.layer import CompressedLayer
from ..compressor.attention_call import AttentionCall
from ..compressor.base import Compressor
from ..compressor.entries import Context, Entries, LayerScores, Places
from ..compressor.rope import Rope
from ..compressor.tensor_parallel import UNSHARDED, HeadSharding
from ..utils.timing import DeviceTimer
from .output_weight import output_weight
from .queries import last_queries


class PeakBytes:
    """The peak bytes of the layers of a cache, which are filled and compressed in turn.

    Attributes:
        bytes: keys, values and metadata of all layers, and the staging buffers.
    """

    def __init__(self, layers: Sequence[CompressedLayer] = ()) -> None:
        self._held = {layer: layer.bytes for layer in layers}
        self._beside = 0
        self.bytes = sum(self._held.values()) + sum(layer.staging_bytes for layer in layers[:1])

    def note(self, layer: CompressedLayer) -> None:
        """Record the size of a layer that changed."""
        self._held[layer] = layer.bytes
        self.bytes = max(self.bytes, self._beside + sum(self._held.values()) + layer.staging_bytes)

    def hold(self, size: int) -> None:
        """Count more bytes from now on, held in addition to the layers."""
        self._beside += size
        self.bytes = max(self.bytes, self._beside + sum(self._held.values()))


@dataclass(frozen=True)
class LayerCompressor:
    """A method with everything needed to apply it to a layer.

    Attributes:
        method: the method.
        rope: rotation of the keys, if the method or compact positions need it.
        timer: measures `"compress"`.
        sharding: distribution of the KV heads over processes.
        image_blocks: whether the tokens of an image attend to each other in both directions.
        calibration: calibrations of the model, by name.
        archive: called with the entries of every pass with frames before eviction, the index of the layer, and whether
            their keys have yet to move.
    """

    method: Compressor
    rope: Rope | None
    timer: DeviceTimer
    sharding: HeadSharding = UNSHARDED
    image_blocks: bool = False
    calibration: Mapping[str, Any] = field(default_factory=dict)
    archive: Callable[[int, Entries, bool], None] | None = None

    def states_read(self, forward_pass: ForwardPass) -> int:
        """Return the number of last hidden states of a pass that the method needs."""
        return forward_pass.length if "attention" in self.method.needs else self._window(forward_pass)

    def _window(self, forward_pass: ForwardPass) -> int:
        """Return the number of last queries of a pass that the method reads."""
        if not self.method.needs & {"queries", "probe"}:
            return 0
        observer: Any = self.method.observer
        window: int = forward_pass.probes or (observer.probe if "probe" in self.method.needs else observer.window)
        return window

    def held(
        self,
        layers: Sequence[CompressedLayer],
        layer: CompressedLayer,
        attention: nn.Module,
        states: Tensor,
        forward_pass: ForwardPass,
        deeper: LayerScores | None = None,
    ) -> Entries:
        """Return all entries of a layer, with the inputs that the method needs.

        Args:
            layers: all compressed layers of the cache.
            layer: the layer, which holds the pass.
            attention: its attention module.
            states: the newest hidden states passed to the attention, (batch, n, hidden).
            forward_pass: the pass in flight.
            deeper: scores of the next deeper layer, for a method that needs them.
        """
        with self.timer.timing("compress"):
            context = Context(
                layer=layers.index(layer),
                layers=len(layers),
                rope=self.rope,
                deeper=deeper,
                spread=self.sharding,
                calibration=self.calibration,
            )
            entries = layer.entries(context)
            window = self._window(forward_pass)
            return replace(entries, context=self._captured(entries, layer.rows, attention, states, window))

    def apply(
        self,
        layer: CompressedLayer,
        entries: Entries,
        forward_pass: ForwardPass,
        shares: Callable[[Sequence[RowState], int, int], Shares],
        evicting: Evicting | None = None,
    ) -> LayerScores | None:
        """Drop the probes of a pass from a layer and evict entries down to the layer's budget.

        Args:
            layer: the layer to compress.
            entries: its entries, from `held`.
            forward_pass: the pass in flight.
            shares: returns the entries to keep, given rows, entries held and the index of the layer.
            evicting: called with the entries and the plan before it is applied.

        Returns:
            Scores of this layer for the next shallower one, if the method needs them.
        """
        with self.timer.timing("compress"):
            if forward_pass.probes:
                entries = entries.slice(0, len(entries) - forward_pass.probes)
                layer.drop_last(forward_pass.probes)
            if not forward_pass.compress:
                return None
            number = entries.context.layer
            if self.archive is not None:
                new = forward_pass.length - forward_pass.probes
                self.archive(number, entries.slice(len(entries) - new, len(entries)), forward_pass.moves)
            scores = layer.evict(entries, shares(layer.rows, layer.physical, number), self.method, evicting)
            if forward_pass.moves and self.rope is not None:
                layer.move(layer.entries(Context()).places[..., Places.TARGET], self.rope)
        return scores

    def _captured(
        self, entries: Entries, rows: Sequence[RowState], attention: nn.Module, states: Tensor, window: int
    ) -> Context:
        """Return the context of a layer's entries with the inputs that the method needs."""
        context, needs = entries.context, self.method.needs
        if window and self.rope is not None:
            queries = last_queries(attention, states, entries, self.rope, window, self.image_blocks)
            context = replace(context, queries=queries)
        if "output_weight" in needs:
            context = replace(context, output_weight=output_weight(attention, entries.keys.shape[1]))
        if "attention" in needs:
            padding = [None if row.loose else row.padding for row in rows]
            context = replace(context, attention=AttentionCall(attention, states, entries, padding))
        return context
