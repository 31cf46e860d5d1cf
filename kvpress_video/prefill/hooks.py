"""The hooks: they follow a pass through the text model and compress each layer's cache right after its attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..attention.layer_compressor import LayerCompressor, Peak
from ..attention.masks import check_attention, layer_mask
from ..attention.recurrent import follow_rows
from ..attention.sliding_window import SlidingPass, tokens_seen
from ..budget import Budget
from ..cache.allocation import BudgetAllocator
from ..cache.forward_pass import ForwardPass, RowState
from ..cache.layer import CompressedLayer, adopt
from ..compressor.base import Compressor, check_observer
from ..compressor.entries import Kind, Tags
from ..errors import CacheError, UnsupportedModelError
from ..models.base import Adapter
from ..models.devices import device_of
from ..utils.timing import DeviceTimer
from .chunking import Chunk, Chunks, cut, repeat_rows, same_in_all_rows
from .input_pruning import drop_embeddings
from .pass_reader import PassReader
from .shared import RecordedPrefill, SharedPrefill, wanted_pass
from .vision_tower import VisionRecorder

_VISION_GROUP = 2048  # visual tokens that the vision tower is given at once, where no chunk says


class Attachment:
    """One method, with one budget, on one model.

    Attributes:
        reader: reads the passes; can be told what comes.
        vision: what the vision tower encoded since it was last asked.
        rope: the rotation of the keys, where something needs it.
        reused: whether the latest prefill was one made before.
        stopwatch: counts `"prefill"` (vision tower and text model up to the last visual token, compression included)
            and `"compress"`.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Compressor,
        budget: Budget,
        stage: str,
        prefill: str,
        chunk: int | None,
        compact: bool,
        finished: Callable[[list[CompressedLayer], int], None],
        text_room: int = 0,
        shared: SharedPrefill | None = None,
    ) -> None:
        """Args:
        prefill: `"whole"`, `"split"` or `"chunked"`.
        chunk: visual tokens of one part of a chunked prefill, and most that the vision tower is given at once.
        finished: called after every pass that brought visual tokens, with the cache layers and the most bytes they
            held during it.
        text_room: text entries that a budget of bytes is kept free for.
        shared: prefills to start from, and to add to.
        """
        check_observer(method)
        self._adapter = adapter
        self._method = method
        self._stage = stage
        self._prefill = prefill
        self._most = chunk
        self._compact = compact
        self._finished = finished
        rotates = compact or method.needs & {"queries", "probe", "rope"}
        self.rope = adapter.rope() if rotates else None
        standby: Any = method.observer if "vision_attention" in method.needs else None
        self.reused = False
        self.stopwatch = DeviceTimer(device_of(adapter.text_model))
        self._reduction = LayerCompressor(method, self.rope, self.stopwatch, adapter.spread, adapter.image_blocks)
        self._shared = shared
        self.vision = VisionRecorder(adapter, standby, chunk or _VISION_GROUP, self.stopwatch, shared)
        self.reader = PassReader(adapter, self.vision, self.rope if compact else None)
        self._budget, self._text_room = budget, text_room
        self._allotment = self._allot()
        self._layers: list[CompressedLayer] = []
        self._chunk: ForwardPass | None = None
        self._sliding: SlidingPass | None = None
        self._recording: RecordedPrefill | None = None
        self._masks: dict[tuple, Tensor | None] = {}  # of the pass in flight, one for all layers alike
        self._peak = Peak()
        self._undo = ExitStack()

    def _allot(self, tokens: int = 0, batch: int = 1) -> BudgetAllocator:
        """What the budget means after so many tokens for the model as it is now: its dtype may change."""
        layers, size = len(self._adapter.attentions), self._adapter.entry_bytes(self._compact)
        beside = self._adapter.beside_bytes(tokens + self._text_room)
        return BudgetAllocator(self._budget, self._method, layers, size, batch, beside, self._text_room)

    def attach(self) -> None:
        """Put the hooks on.

        Raises:
            UnsupportedModelError: another compression is on this model, or its attention cannot be served.
        """
        text, inner = self._adapter.text_model, self._adapter.inner
        check_attention(text.config._attn_implementation)
        owners = (getattr(hook, "__self__", None) for hook in inner._forward_pre_hooks.values())
        if any(isinstance(owner, PassReader) for owner in owners):
            raise UnsupportedModelError("This model is being compressed already: leave that compression first.")
        with ExitStack() as undo:
            undo.callback(self.vision.remove)
            self.vision.attach()
            undo.callback(inner.register_forward_pre_hook(self.reader.note_ids, with_kwargs=True).remove)
            for attention in self._adapter.attentions:
                before = attention.register_forward_pre_hook(self._before_attention, with_kwargs=True)
                after = attention.register_forward_hook(self._after_attention, with_kwargs=True)
                undo.callback(before.remove)
                undo.callback(after.remove)
            for attention in self._adapter.sliding:
                undo.callback(attention.register_forward_pre_hook(self._before_sliding, with_kwargs=True).remove)
            for number, recurrence in self._adapter.recurrences.items():
                undo.callback(follow_rows(recurrence, number, lambda: self._chunk))
            undo.callback(self._restore_forward, text, text.__dict__.get("forward"))
            self._wrap_forward(text)
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Take everything off again; the model is as it was."""
        self._undo.close()

    def _wrap_forward(self, text: Any) -> None:
        forward = text.forward

        @functools.wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if args:
                raise UnsupportedModelError("The text model was called with positional arguments: pass them by name.")
            try:
                return self._run(forward, kwargs)
            except BaseException:
                self.stopwatch.clear()
                raise
            finally:
                self._layers = []

        text.forward = run

    @staticmethod
    def _restore_forward(text: Any, own: Callable[..., Any] | None) -> None:
        text.__dict__.pop("forward", None)
        if own is not None:
            text.forward = own

    def _run(self, forward: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """The text model's forward: read what comes, drop embeddings or go in two parts if that is asked for."""
        if kwargs.get("use_cache") is False:
            raise CacheError("use_cache=False leaves no cache to compress: leave it on inside compress().")
        if kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = DynamicCache(config=self._adapter.text_model.config)
        self._layers = adopt(kwargs["past_key_values"], len(self._adapter.attentions))
        first = self._layers[0]
        batch = len(kwargs["inputs_embeds"])
        first.check_continues(batch, self._compact)
        rows = first.rows or [RowState()] * batch
        chunk = self.reader.read(kwargs, first, rows)
        if not chunk.compress:
            return self._pass(forward, kwargs, chunk)
        self._allotment = self._allot(first.logical + chunk.logical, batch)
        after = [row.after(new, first.physical) for row, new in zip(rows, chunk.rows, strict=True)]
        length = first.physical + chunk.tags.shape[1]
        shares, fits = self._allotment.shares(after, length), self._allotment.hold_all(after, length)
        counting = rows[0].following is not None
        if not counting:
            self._allotment.check(after, length)
            if self._compact:
                chunk = self.reader.place(chunk, rows, after, shares)
        self._peak, self.reused = Peak(self._layers), False
        if self._stage == "input":
            output = self._prefill_pass(forward, kwargs, chunk if fits else self._dropped(kwargs, chunk, rows, shares))
        elif self._prefill == "whole" or (fits and self._prefill == "split" and not self._shares_prefill):
            output = self._prefill_pass(forward, kwargs, chunk)
        else:
            parts = cut(chunk, self._most, self._adapter.image_blocks)
            one_pass = fits and len(parts.visual) == 1 and not self._shares_prefill
            run = self._prefill_pass if one_pass else functools.partial(self._in_parts, parts=parts)
            output = run(forward, kwargs, chunk)
        uneven = len({layer.physical for layer in self._layers}) > 1
        for layer in self._layers:
            layer.guarded = counting or uneven or layer.padded or any(row.shift for row in layer.rows)
        self._finished(self._layers, self._peak.bytes)
        self.stopwatch.clear()
        return output

    def _prefill_pass(self, forward: Callable[..., Any], kwargs: dict[str, Any], chunk: ForwardPass) -> Any:
        with self.stopwatch.timing("prefill"):
            return self._pass(forward, kwargs, chunk)

    def _pass(self, forward: Callable[..., Any], kwargs: dict[str, Any], chunk: ForwardPass) -> Any:
        self._chunk, self._masks = chunk, {}
        self._sliding = SlidingPass(self._adapter, tokens_seen(self._layers[0]), chunk)
        for layer in self._layers:
            layer.incoming = chunk
        try:
            return forward(**kwargs)
        except BaseException:
            for layer in self._layers:
                layer.broken = True
            raise
        finally:
            self._chunk, self._masks, self._sliding, self._recording = None, {}, None, None
            for layer in self._layers:
                layer.incoming = None

    def _dropped(
        self, kwargs: dict[str, Any], chunk: ForwardPass, rows: Sequence[RowState], shares: Sequence
    ) -> ForwardPass:
        with self.stopwatch.timing("prefill"), self.stopwatch.timing("compress"):
            chunk = drop_embeddings(self._adapter, self._method, kwargs, self.reader.arrived(chunk), rows, shares)
        chunk = replace(chunk, stock_mask=False)
        self.reader.rewrite(kwargs, chunk)
        return chunk

    def _in_parts(
        self, forward: Callable[..., Any], kwargs: dict[str, Any], whole: ForwardPass, *, parts: Chunks
    ) -> Any:
        """Part by part up to the last visual token, compressed after each; then the text after it, which sees only
        what was kept.
        """
        if "probe" in self._method.needs:
            observer: Any = self._method.observer
            parts = parts.asking(observer.probe)
        visual, rest = parts
        if rest is None and len(visual) == 1:
            return self._prefill_pass(forward, kwargs, whole)
        config = self._adapter.text_model.config
        wanted = ("output_hidden_states", "output_attentions")
        if any(kwargs.get(name) or getattr(config, name, False) for name in wanted):
            raise UnsupportedModelError(
                "Hidden states and attentions need the prompt in one pass: use prefill='whole'."
            )
        if self._prefill == "chunked":
            whole = self.reader.arrived(whole)
        embeddings, aligned = kwargs["inputs_embeds"], self._adapter.take_aligned(kwargs)
        alike = not self._layers[0].physical and same_in_all_rows(visual, whole, embeddings)
        joined = embeddings.new_zeros(len(whole.rows), whole.logical, embeddings.shape[-1])
        left = whole.logical
        for number, part in enumerate(visual):
            later = [*visual[number + 1 :], *([rest] if rest else [])]
            waiting = max(map(sum, zip(*(other.text for other in later), strict=True)), default=0)
            self._allotment = replace(self._allotment, waiting=waiting)
            mine = part.first_row() if alike else part
            logical = min(len(part) - part.probes, left) if later else left
            left -= logical
            chunk = mine.chunk(whole, logical, compress=True)
            output = self._visual_pass(forward, self._arguments(kwargs, mine, chunk, aligned), chunk)
            states = output.last_hidden_state[:, : len(part) - part.probes]
            part.put(joined, states.expand(len(whole.rows), -1, -1))
        if alike:
            last = visual[-1].take(whole.tags)[:, -1 - visual[-1].probes, Tags.INDEX]
            repeat_rows(kwargs["past_key_values"], last - last[0])
        if rest is not None:
            chunk = self.reader.arrived(rest.chunk(whole, left, compress=False))
            output = self._pass(forward, self._arguments(kwargs, rest, chunk, aligned), chunk)
            rest.put(joined, output.last_hidden_state)
        output.last_hidden_state = joined
        return output

    @property
    def _shares_prefill(self) -> bool:
        return self._shared is not None and self._prefill == "split"

    def _visual_pass(self, forward: Callable[..., Any], arguments: dict[str, Any], chunk: ForwardPass) -> Any:
        """A part that ends in a visual token; at the start of a sequence, from an equal pass where there was one."""
        if self._shared is None or not self._shares_prefill or self._layers[0].physical:
            return self._prefill_pass(forward, arguments, chunk)
        self._shared.belongs_to(self._adapter.model)
        wanted = wanted_pass(arguments, chunk, self._adapter.text_model.config._attn_implementation)
        window = self._reduction.window(chunk)
        known = self._shared.find(wanted, window)
        if known is not None:
            self.reused = True
            known.put_others(arguments["past_key_values"])
            return self._prefill_pass(functools.partial(self._replay, known, chunk), {}, chunk)
        self._recording = wanted
        output = self._prefill_pass(forward, arguments, chunk)
        wanted.finish(arguments["past_key_values"], output.last_hidden_state)
        self._shared.add(wanted)
        return output

    def _replay(self, known: RecordedPrefill, chunk: ForwardPass) -> Any:
        for layer, part in zip(self._layers, known.layers, strict=True):
            layer.update(part.keys, part.values)
            self._reduce(part.attention, layer, part.states, chunk)
        return BaseModelOutputWithPast(last_hidden_state=known.hidden)

    def _arguments(
        self, kwargs: dict[str, Any], part: Chunk, chunk: ForwardPass, aligned: Tensor | None
    ) -> dict[str, Any]:
        """The text model's arguments for some of the columns."""
        rows = len(chunk.rows)
        arguments = kwargs | {"inputs_embeds": part.take(kwargs["inputs_embeds"][:rows])}
        if aligned is not None:
            visual = chunk.tags[..., Tags.KIND] > Kind.TEXT
            self._adapter.put_aligned(arguments, part.take(aligned[:rows]), visual)
        self.reader.rewrite(arguments, chunk)
        return arguments

    def _before_attention(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if self._chunk is not None and isinstance(layer, CompressedLayer):
            states = kwargs["hidden_states"]
            alike = (layer.physical, tuple(row.padding for row in layer.rows), states.device)
            if alike not in self._masks:
                implementation = module.config._attn_implementation
                given, blocks = kwargs.get("attention_mask"), self._adapter.image_blocks
                self._masks[alike] = layer_mask(layer, self._chunk, given, implementation, states, blocks)
            kwargs["attention_mask"] = self._masks[alike]
            if "position_ids" in kwargs:
                kwargs["position_ids"] = None  # only read by flash attention, which takes gaps for packed sequences
        return args, kwargs

    def _before_sliding(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs if self._sliding is None else self._sliding.arguments(module, kwargs)

    def _after_attention(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        chunk = self._chunk
        if chunk is None or not isinstance(layer, CompressedLayer) or not (chunk.compress or chunk.probes):
            return
        if self._recording is not None:
            self._recording.note(module, layer, kwargs["hidden_states"], self._reduction.window(chunk))
        self._reduce(module, layer, kwargs["hidden_states"], chunk)

    def _reduce(self, module: Any, layer: CompressedLayer, states: Tensor, chunk: ForwardPass) -> None:
        self._peak.note(layer)
        self._reduction.apply(self._layers, self._layers.index(layer), module, states, chunk, self._allotment.shares)
        self._peak.note(layer)
