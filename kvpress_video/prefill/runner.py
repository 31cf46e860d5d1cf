"""Run one call of the text model: a compressed prefill, or more text on a compressed cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.cache_utils import DynamicCache

from ..attention.layer_compressor import LayerCompressor, PeakBytes
from ..budget import Budget
from ..cache.adoption import adopt
from ..cache.allocation import BudgetAllocator
from ..cache.forward_pass import RowState
from ..cache.layer import CompressedLayer
from ..cache.storage import storage_for
from ..compressor.routing import checked_routing
from ..errors import CacheError
from ..models.base import Adapter
from ..models.cache_argument import CACHE
from .options import PrefillOptions
from .pass_in_flight import PassInFlight
from .pass_reader import Arrival, ModelInputs, PassReader
from .prompt_prefill import Forward, PromptPrefill
from .shared import SharedPrefill

Finished = Callable[[list[CompressedLayer], int], None]
"""Called after every prefill with visual tokens, with the cache layers and their peak bytes."""


class PromptRunner:
    """Runs the passes of one model under one method and budget.

    Attributes:
        reused: whether the latest prefill was taken from a `SharedPrefill`.
    """

    def __init__(
        self,
        adapter: Adapter,
        compressor: LayerCompressor,
        budget: Budget,
        options: PrefillOptions,
        reader: PassReader,
        finished: Finished,
        shared: SharedPrefill | None = None,
    ) -> None:
        """Make a runner for one model.

        Args:
            adapter: adapter of the model.
            compressor: applies the method to a layer.
            budget: budget of the cache.
            options: prefill options.
            reader: parses the text model's arguments.
            finished: called after every prefill.
            shared: recorded prefills to use and extend; only for `"split"`, with all tokens in all layers and the
                model's own number of experts.
        """
        self.reused = False
        self._adapter = adapter
        self._compressor = compressor
        self._budget = budget
        self._options = options
        self._reader = reader
        self._finished = finished
        routes = checked_routing(compressor.method, len(adapter.attentions)) is not None
        stock = not routes and options.experts is None
        self._shared = shared if options.prefill == "split" and stock else None
        self._allocator(0, 1)  # raises if KV heads do not divide among processes, before any work

    def run(self, forward: Forward, kwargs: dict[str, Any], given: ModelInputs | Arrival) -> Any:
        """Run one call of the text model, and return its output.

        Args:
            forward: the text model's own forward.
            kwargs: its arguments.
            given: arguments of the model's call, or the layout of a pass outside of one.

        Raises:
            BudgetError: the budget leaves nothing of the visual tokens, or cannot be reached.
            CacheError: the cache is disabled, or was filled without compression.
            MissingInputError, UnsupportedModelError: visual tokens cannot be distinguished from text, or the requested
                outputs need the prompt in one pass.
        """
        if kwargs.get("use_cache") is False:
            raise CacheError("use_cache=False leaves no cache to compress: leave it on inside compress().")
        config = self._adapter.text_model.config
        if kwargs.get(CACHE) is None:
            kwargs[CACHE] = DynamicCache(config=config)
        method = self._compressor.method
        layers = adopt(kwargs[CACHE], config, storage_for(method, self._options.storage))
        first, batch = layers[0], len(kwargs["inputs_embeds"])
        first.check_continues(batch, self._options.compact, method.uneven)
        rows = first.rows or [RowState()] * batch
        forward_pass = self._reader.read(kwargs, first, rows, given)
        if not forward_pass.compress:
            flight = PassInFlight(self._adapter, self._compressor, layers, forward_pass, None, PeakBytes())
            return flight.run(forward, kwargs)
        allocator = self._allocator(first.logical + forward_pass.logical, batch)
        parts = (self._adapter, self._compressor, self._reader, self._options, layers, allocator, self._shared)
        prefill = PromptPrefill(*parts)
        output = prefill.run(forward, kwargs, forward_pass, rows)
        self.reused = prefill.reused
        unequal = len({layer.physical for layer in layers}) > 1
        for layer in layers:
            layer.guard(unequal or layer.padded or any(row.shift or row.following is not None for row in layer.rows))
        self._finished(layers, prefill.peak.bytes)
        self._compressor.timer.clear()
        return output

    def _allocator(self, tokens: int, batch: int) -> BudgetAllocator:
        method = self._compressor.method
        return self._options.allocator(self._adapter, method, self._budget, tokens, batch)
