"""Prefill of one prompt with visual tokens: in a single pass, or chunk by chunk with compression after each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..attention.layer_compressor import LayerCompressor, PeakBytes
from ..cache.adoption import all_or_broken
from ..cache.allocation import BudgetAllocator, Shares
from ..cache.forward_pass import ForwardPass, RowState
from ..cache.layer import CompressedLayer
from ..compressor.entries import Tags, is_visual
from ..compressor.routing import Routing, checked_routing, checked_transfer
from ..errors import UnsupportedModelError
from ..models.base import Adapter
from ..models.cache_argument import CACHE
from .chunking import Chunk, Chunks, cut, same_in_all_rows
from .input_pruning import drop_embeddings
from .largest_pass import paying_for_largest_pass
from .newest_frames import newest_anew
from .options import PrefillOptions
from .pass_in_flight import PassInFlight
from .pass_reader import PassReader
from .prompt_archive import PromptArchive
from .reencoding import put
from .shared import RecordedPrefill, SharedPrefill, wanted_pass
from .text_transfer import TextTransfer
from .token_routing import TokenRouting

Forward = Callable[..., Any]


@dataclass
class PromptPrefill:
    """The state of one prefill.

    Attributes:
        adapter: adapter of the model.
        compressor: applies the method to a layer.
        reader: adapts the text model's arguments to a chunk.
        options: prefill options.
        layers: compressed layers of the cache.
        allocator: allocates the entries of each layer.
        shared: recorded prefills to use and extend.
        reused: whether a recorded prefill was used.
    """

    adapter: Adapter
    compressor: LayerCompressor
    reader: PassReader
    options: PrefillOptions
    layers: list[CompressedLayer]
    allocator: BudgetAllocator
    shared: SharedPrefill | None
    reused: bool = False
    _routing: Routing | None = field(default=None, init=False)
    _transfer: TextTransfer | None = field(default=None, init=False)
    _archive: PromptArchive | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.peak = PeakBytes(self.layers)

    def run(self, forward: Forward, kwargs: dict[str, Any], whole: ForwardPass, rows: Sequence[RowState]) -> Any:
        """Prefill the prompt and compress the cache. A failure after the first chunk breaks the cache.

        Args:
            forward: the text model's own forward.
            kwargs: its arguments.
            whole: the tokens of the prompt.
            rows: row states before it.
        """
        first = self.layers[0]
        after = [row.after(new, first.physical) for row, new in zip(rows, whole.rows, strict=True)]
        length = first.physical + whole.length - whole.probes
        fits = self.allocator.reading(whole.length).hold_all(after, length)
        chunks = self._chunks(whole, after, length, fits)
        if not fits and self.options.stage == "cache":
            self._routing = checked_routing(self.compressor.method, len(self.layers))
            self._transfer = self._text_transfer(one_pass=chunks is None)
            self.allocator = paying_for_largest_pass(
                self.allocator,
                whole,
                chunks,
                kwargs["inputs_embeds"],
                begun=first.physical > 0,
                transfers=self._transfer is not None,
            )
        shares = self.allocator.shares(after, length)
        if self.compressor.method.recall_share and rows[0].following is None and not fits:
            self._archive = PromptArchive(self.adapter, self.compressor.method, len(whole.rows), chunks)
            self.compressor = replace(self.compressor, archive=self._archive.note)
        if rows[0].following is None:
            self.allocator.check(after, length)
            if self.options.compact:
                whole = self.reader.place(whole, rows, after, shares)
        if chunks is not None:
            return self._in_chunks(forward, kwargs, whole, chunks.placed(whole.rows), fits)
        pruned = self.options.stage == "input" and not fits
        output = self._pass(forward, kwargs, self._pruned(kwargs, whole, rows, shares) if pruned else whole)
        if not fits:
            self._refresh(forward, kwargs, whole)
        return output

    def _text_transfer(self, one_pass: bool) -> TextTransfer | None:
        found, rope = checked_transfer(self.compressor.method, len(self.layers)), self.compressor.rope
        return TextTransfer(*found, rope, self.peak, one_pass) if found and rope else None

    def _chunks(self, whole: ForwardPass, after: Sequence[RowState], length: int, fits: bool) -> Chunks | None:
        """Cut the prompt into chunks, or return None if it is read in one pass.

        Args:
            whole: the tokens of the prompt.
            after, length: row states including the prompt, and their entries.
            fits: whether all entries stay.
        """
        options = self.options
        alone = fits and self.shared is None
        if options.stage == "input" or options.prefill == "whole" or (alone and options.prefill == "split"):
            return None
        most = options.chunk
        if most is not None and not options.chunk_asked:
            most = min(most, self.allocator.usual_chunk(after, length))
        chunks = cut(whole, most, self.adapter.image_blocks)
        if alone and len(chunks.visual) == 1:
            return None
        needs = self.compressor.method.needs
        if "probe" in needs:
            observer: Any = self.compressor.method.observer
            chunks = chunks.asking(observer.probe)
        if "reconstruction" in needs:
            chunks = chunks.repeating(whole)
        return None if chunks.rest is None and len(chunks.visual) == 1 else chunks

    def _in_flight(self, forward_pass: ForwardPass, recording: RecordedPrefill | None = None) -> PassInFlight:
        state = (self.adapter, self.compressor, self.layers, forward_pass, self.allocator, self.peak)
        routing = None
        if self._routing is not None and forward_pass.compress:
            routing = TokenRouting(self.adapter, self.layers, self._routing, forward_pass)
        return PassInFlight(*state, recording=recording, routing=routing, experts=self.options.experts,
                            transfer=self._transfer)  # fmt: skip

    def _pass(
        self, forward: Forward, kwargs: dict[str, Any], chunk: ForwardPass, recording: RecordedPrefill | None = None
    ) -> Any:
        with self.compressor.timer.timing("prefill"):
            return self._in_flight(chunk, recording).run(forward, kwargs)

    def _pruned(
        self,
        kwargs: dict[str, Any],
        whole: ForwardPass,
        rows: Sequence[RowState],
        shares: Shares,
    ) -> ForwardPass:
        """Drop or merge visual embeddings; return the remaining pass."""
        timer, arrived = self.compressor.timer, self.reader.arrived(whole)
        with timer.timing("prefill"), timer.timing("compress"):
            left = drop_embeddings(self.adapter, self.compressor.method, kwargs, arrived, rows, shares)
        left = replace(left, stock_mask=False)
        self.reader.rewrite(kwargs, left)
        return left

    def _refresh(self, forward: Forward, kwargs: Mapping[str, Any], whole: ForwardPass) -> None:
        """Re-encode the newest frames of each video, as many as the method requests; a stream does so for each
        question.
        """
        newest = self.compressor.method.fresh
        if newest and whole.rows[0].following is None:
            for made in newest_anew(forward, self.adapter, self.layers, kwargs, whole, newest):
                self.peak.bytes = max(self.peak.bytes, sum(layer.bytes for layer in self.layers) + made.bytes)
                put(self.layers, made)

    def _in_chunks(
        self, forward: Forward, kwargs: dict[str, Any], whole: ForwardPass, chunks: Chunks, fits: bool
    ) -> Any:
        """Prefill chunk by chunk up to the last visual token, compressing after each, and then the remaining text,
        which sees only the kept entries.
        """
        self._check_outputs(kwargs)
        if self.options.prefill == "chunked":
            whole = self.reader.arrived(whole)
        with all_or_broken(self.layers):
            return self._chunk_by_chunk(forward, kwargs, whole, chunks, fits)

    def _chunk_by_chunk(
        self, forward: Forward, kwargs: dict[str, Any], whole: ForwardPass, chunks: Chunks, fits: bool
    ) -> Any:
        visual, rest = chunks
        embeddings, aligned = kwargs["inputs_embeds"], self.adapter.take_aligned(kwargs)
        alike = not self.layers[0].physical and self._archive is None and same_in_all_rows(visual, whole, embeddings)
        widest = torch.promote_types(embeddings.dtype, self.adapter.cache_dtypes[0])
        joined = embeddings[:, :0]
        left = whole.logical
        for number, (chunk, waiting) in enumerate(zip(visual, chunks.waiting, strict=True)):
            self.allocator = replace(self.allocator, waiting=waiting)
            mine = chunk.first_row() if alike else chunk
            last = rest is None and number == len(visual) - 1
            logical = left if last else min(len(chunk) - chunk.probes, left)
            left -= logical
            given = mine.chunk(whole, logical, compress=True)
            output = self._visual_pass(forward, self._arguments(kwargs, mine, given, aligned), given)
            states = output.last_hidden_state[:, : len(chunk) - chunk.probes]
            if not number:  # now, since memory is scarce during the first pass
                joined = embeddings.new_zeros(len(whole.rows), whole.logical, embeddings.shape[-1], dtype=widest)
            chunk.put(joined, states.expand(len(whole.rows), -1, -1))
        if alike:
            self._repeat_rows(kwargs[CACHE], visual[-1], whole)
        if not fits:
            self._refresh(forward, kwargs, whole)
        if rest is not None:
            given = self.reader.arrived(rest.chunk(whole, left, compress=False))

            def read() -> Any:
                return self._in_flight(given).run(forward, self._arguments(kwargs, rest, given, aligned))

            if self._archive is not None:
                self._archive.bring_back(self.layers, rest.real, read)
            output = read()
            rest.put(joined, output.last_hidden_state)
        output.last_hidden_state = joined
        return output

    def _check_outputs(self, kwargs: Mapping[str, Any]) -> None:
        config = self.adapter.text_model.config
        wanted = ("output_hidden_states", "output_attentions")
        if any(kwargs.get(name) or getattr(config, name, False) for name in wanted):
            raise UnsupportedModelError(
                "Hidden states and attentions need the prompt in one pass: use prefill='whole'."
            )

    def _visual_pass(self, forward: Forward, arguments: dict[str, Any], chunk: ForwardPass) -> Any:
        """Run a chunk that ends in a visual token; at the start of a sequence, replay an equal recorded chunk if there
        is one.
        """
        if self.shared is None or self.layers[0].physical:
            return self._pass(forward, arguments, chunk)
        self.shared.belongs_to(self.adapter.model)
        wanted = wanted_pass(arguments, chunk, self.adapter.text_model.config._attn_implementation)
        known = self.shared.find(wanted, self.compressor.states_read(chunk))
        if known is not None:
            self.reused = True
            known.put_others(arguments[CACHE])
            return self._replay(known, chunk)
        output = self._pass(forward, arguments, chunk, recording=wanted)
        wanted.finish(arguments[CACHE], output.last_hidden_state)
        self.shared.add(wanted)
        return output

    def _replay(self, known: RecordedPrefill, chunk: ForwardPass) -> Any:
        with self.compressor.timer.timing("prefill"):
            self._in_flight(chunk).replay(known.layers)
        return BaseModelOutputWithPast(last_hidden_state=known.hidden)

    def _repeat_rows(self, cache: Any, last: Chunk, whole: ForwardPass) -> None:
        """Copy the first row to all rows; their token indices differ by their padding."""
        index = last.take(whole.tags)[:, -1 - last.probes, Tags.INDEX]
        shift = index - index[0]
        for layer in cache.layers:
            if isinstance(layer, CompressedLayer):
                layer.repeat_first_row(shift)
            else:
                layer.reorder_cache(shift.new_zeros(len(shift), dtype=shift.dtype))

    def _arguments(
        self, kwargs: dict[str, Any], columns: Chunk, chunk: ForwardPass, aligned: Tensor | None
    ) -> dict[str, Any]:
        """Return the text model's arguments for some of the columns."""
        rows = len(chunk.rows)
        arguments = kwargs | {"inputs_embeds": columns.take(kwargs["inputs_embeds"][:rows])}
        if aligned is not None:
            visual = is_visual(chunk.tags[..., Tags.KIND])
            self.adapter.put_aligned(arguments, columns.take(aligned[:rows]), visual)
        if "logits_to_keep" in arguments:  # of text models that only compute this; the states of all chunks are joined
            arguments["logits_to_keep"] = 0
        self.reader.rewrite(arguments, chunk)
        return arguments
