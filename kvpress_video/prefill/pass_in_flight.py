"""One pass of the text model while it runs: hooks around each attention, and the state they share until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..attention.layer_compressor import LayerCompressor, PeakBytes
from ..attention.masks import layer_mask
from ..attention.recurrent import follow_rows
from ..attention.sliding_window import SlidingPass, tokens_seen
from ..cache.allocation import BudgetAllocator
from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..models.base import Adapter
from .shared import RecordedPrefill


@dataclass
class PassInFlight:
    """A pass from the moment that its tokens are known until the text model returns.

    Attributes:
        adapter: of the model.
        compressor: applies the method to a layer.
        layers: compressed layers of the cache.
        forward_pass: the tokens that come.
        allocator: says how many entries each layer keeps.
        peak: measures the layers around each compression.
        recording: notes what every layer was given, for later prefills of the same prompt.
    """

    adapter: Adapter
    compressor: LayerCompressor
    layers: Sequence[CompressedLayer]
    forward_pass: ForwardPass
    allocator: BudgetAllocator
    peak: PeakBytes
    recording: RecordedPrefill | None = None
    _masks: dict[tuple, Tensor | None] = field(default_factory=dict)  # layers that are alike share one

    def run(self, call: Callable[[], Any]) -> Any:
        """Call the text model with the hooks in place.

        Raises whatever the call raises; the cache is then marked as broken.
        """
        for layer in self.layers:
            layer.begin_pass(self.forward_pass)
        failed = True
        try:
            with self._hooked():
                output = call()
            failed = False
        finally:
            for layer in self.layers:
                layer.end_pass(failed)
        return output

    def compress(self, attention: Any, layer: CompressedLayer, states: Tensor) -> None:
        """Compress a layer that holds the pass; `states` (batch, n, hidden) are what its attention was given."""
        arguments = (self.layers, layer, attention, states, self.forward_pass, self.allocator.shares, self.peak)
        self.compressor.apply(*arguments)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Hooks come first in line, so that those of others see the masks that are in force."""
        adapter, forward_pass = self.adapter, self.forward_pass
        sliding = SlidingPass(adapter, tokens_seen(self.layers[0]), forward_pass)

        def before_sliding(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            return args, sliding.arguments(module, kwargs)

        with ExitStack() as undo:
            for attention in adapter.attentions:
                hook = attention.register_forward_pre_hook(self._before_attention, with_kwargs=True, prepend=True)
                undo.callback(hook.remove)
                if forward_pass.compress or forward_pass.probes:
                    hook = attention.register_forward_hook(self._after_attention, with_kwargs=True, prepend=True)
                    undo.callback(hook.remove)
            for attention in adapter.sliding:
                hook = attention.register_forward_pre_hook(before_sliding, with_kwargs=True, prepend=True)
                undo.callback(hook.remove)
            for number, recurrence in adapter.recurrences.items():
                undo.enter_context(follow_rows(recurrence, number, forward_pass))
            yield

    def _before_attention(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if isinstance(layer, CompressedLayer):
            kwargs["attention_mask"] = self._mask(layer, module, kwargs)
            if "position_ids" in kwargs:
                kwargs["position_ids"] = None  # only read by flash attention, which takes gaps for packed sequences
        return args, kwargs

    def _mask(self, layer: CompressedLayer, module: Any, kwargs: dict[str, Any]) -> Tensor | None:
        states = kwargs["hidden_states"]
        alike = (layer.physical, tuple(row.padding for row in layer.rows), states.device)
        if alike not in self._masks:
            implementation, blocks = module.config._attn_implementation, self.adapter.image_blocks
            given = kwargs.get("attention_mask")
            self._masks[alike] = layer_mask(layer, self.forward_pass, given, implementation, states, blocks)
        return self._masks[alike]

    def _after_attention(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if not isinstance(layer, CompressedLayer):
            return
        if self.recording is not None:
            window = self.compressor.window(self.forward_pass)
            self.recording.note(module, layer, kwargs["hidden_states"], window)
        self.compress(module, layer, kwargs["hidden_states"])
