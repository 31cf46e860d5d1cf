"""One endless sequence in a capped cache: text and frames are appended, positions follow time, `generate()` continues.

This file holds one class, since every change of a stream's cache also changes its positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakMethod

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..budget import Budget
from ..cache.adoption import all_or_broken, layers_of
from ..cache.forward_pass import RowState
from ..cache.layer import CompressedLayer
from ..cache.layer_mark import LayerMark
from ..cache.storage import Storage, storage_for
from ..cache.uncompressed import copies, put_copies, states
from ..compressor.base import Compressor, checked_banked
from ..compressor.entries import Places
from ..errors import VideoError
from ..models.base import Adapter
from ..models.cache_argument import CACHE
from ..models.devices import device_of
from ..prefill.hooks import ModelHooks
from ..prefill.options import Labels
from ..prefill.pass_reader import Arrival
from ..utils.concurrency import defer_sigint, entered, model_lock, under_lock
from ..utils.method_patch import replaced
from ..utils.warnings import warn_caller
from .feeding import EncodedFrames, Feeding, FrameFeeder, embedded, text_feeding
from .frame_tokens import FrameTokens, LabelIds
from .new_prompt import generate_on
from .newest_frames import NewestFrames
from .position_gaps import Closing
from .position_rescaling import Rescaling, occupied, rescale_to
from .stream_archive import StreamArchive
from .stream_budget import StreamBudget
from .streamable import check_streamable
from .timeline import Timeline

_LEAST_RUNS = 16  # with fewer runs, empty ones are not searched
_MOST_GAPS = 16  # waiting to be closed
_PLAIN_STORAGE = Storage()


class Mark(NamedTuple):
    """A point in a stream to return to: the state of every layer, the timeline, the text evicted so far, and copies of
    the uncompressed layers.
    """

    layers: tuple[LayerMark, ...]
    timeline: Timeline
    evicted_text: int
    others: Mapping[int, Any]

    def moved(self, change: Rescaling | Closing) -> Mark:
        """Return the mark after positions have moved."""
        layers = tuple(layer._replace(rows=tuple(_moved(layer.rows, change))) for layer in self.layers)
        return self._replace(layers=layers, timeline=self.timeline.moved(change))


class Stream:
    """An endless sequence of text and frames in one capped cache.

    Attributes:
        cache: a transformers cache.
        compact: whether positions are rescaled.
        timeline: positions of the frames.
        archive: all frames, from which a method may retrieve some for a question.
        newest: embeddings of the newest frames, for methods that re-encode them.
        remembered: a mark that is moved along with positions, so that it stays valid; no frames were added since.
        evicted_text: evicted text entries per layer and KV head.
        peak_bytes: peak bytes of the cache, including staging buffers.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Compressor,
        budget: Budget,
        *,
        chunk: int,
        compact: bool,
        position_limit: int | None,
        text_room: int,
        opening: int,
        label_tokens: tuple[int, int],
        probes: Sequence[int],
        storage: Storage = _PLAIN_STORAGE,
        labels: Labels = "spread",
        experts: int | None = None,
    ) -> None:
        """Make an empty stream.

        Args:
            chunk: maximum visual tokens of one feeding.
            text_room: text entries for which a budget in bytes has room after every feeding.
            opening: maximum tokens of text that opens frames between two questions.
            label_tokens: tokens of text of the first temporal step, and the maximum of any step.
            position_limit: number of positions of the model; None for the value in its configuration.
            probes: token ids of probes after each feeding, for methods that read attention.
            storage: how keys and values are stored.
            labels: treatment of the text of frames, see `compress`.
            experts: number of experts per visual token; None for as many as for text.
        """
        check_streamable(adapter, method, compact)
        self.adapter = adapter
        config = adapter.text_model.config
        self.position_limit = config.max_position_embeddings if position_limit is None else position_limit
        self.compact = compact
        observer: Any = method.observer
        probes = list(probes)[-observer.probe :] if "probe" in method.needs else []
        self._budget = StreamBudget(
            adapter=adapter,
            method=method,
            budget=budget,
            chunk=chunk,
            text_room=text_room,
            opening=opening,
            label=label_tokens[0],
            longest_label=label_tokens[1],
            probes=len(probes),
            compact=compact,
            storage=storage,
            labels=labels,
            experts=experts,
        )
        options = self._budget.options
        self._rope = adapter.rope()
        self.archive = StreamArchive(adapter, method, storage.bank_on, self._rope)
        note = self.archive.note if method.recall_share else None
        self._hooks = ModelHooks(adapter, method, budget, options, _weakly(self.note_peak), archive=note)
        self._spatial = bool(self._rope.axes.any())
        self._feeder = FrameFeeder(adapter, probes, self._budget.repeats, options.labelled)
        self.timeline = Timeline(self._spatial, labelled=adapter.labelled)
        self._most_runs = _LEAST_RUNS
        self.remembered: Mark | None = None
        self.newest = NewestFrames(adapter, method.fresh, self._spatial)
        self.evicted_text = self.peak_bytes = 0
        self.cache = _empty_cache(adapter, method, self._budget.reserve, storage)

    @property
    def layers(self) -> list[CompressedLayer]:
        """The cache's compressed layers."""
        return layers_of(self.cache)

    @property
    def uncompressed_bytes(self) -> int:
        """Bytes of the uncompressed layers and of embeddings of frames."""
        return sum(state.nbytes for state in states(self.cache).values()) + self.newest.bytes

    @property
    def planned_bytes(self) -> int:
        """Bytes of the buffers reserved with the first entries, over all layers; 0 without a cap."""
        return len(self.layers) * self._budget.reserve * self.adapter.entry_bytes(self.compact)

    @property
    def following(self) -> int:
        """Position of the next text token."""
        return self.layers[0].rows[0].following or 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Context manager that registers the hooks while tokens are fed or generated, under the model's lock.

        Calls of the model from other threads wait for the lock, and then see the stock model.
        """
        model = self.adapter.model
        locked = partial(under_lock, model_lock(model))
        methods = (replaced(model, name, locked) for name in ("generate", "forward"))
        with entered([*methods, self._hooks.attached()]):
            yield

    @torch.no_grad()
    def feed_frames(
        self, inputs: Any, seconds: Sequence[float], before: Sequence[int], labels: Sequence[LabelIds]
    ) -> None:
        """Append frames.

        Args:
            inputs: the output of the model's processor.
            seconds: time of each temporal step.
            before: token ids of the text that opens a run.
            labels: token ids around each temporal step.
        """
        features, aligned, item = self._hooks.vision.encode(inputs.to(device_of(self.adapter.inner)))
        grid, seen = item.grid, self.timeline.grid
        if seen is not None and seen[1:] != grid[1:]:
            raise VideoError(
                f"The frames make {grid.rows}×{grid.columns} visual tokens, but the stream started with "
                f"{seen.rows}×{seen.columns}: use one size."
            )
        tokens = FrameTokens(grid, labels, item.shown)
        self._forget_empty_runs()
        for _ in range(2):  # making room may move the preceding positions
            start = self.following + len(before)
            shown, timeline = self.timeline.placed(
                self.adapter, tokens, seconds, start, self._longest_pause(grid.frames)
            )
            end = timeline.runs[-1].end
            self.make_room(end - self.following)
        embeddings = tokens.embedded(features, embedded(self.adapter, tokens.ids))
        index, watched = self.layers[0].logical, self.timeline.frames
        frames = EncodedFrames(tokens, embeddings, aligned, item.importance, watched)
        self._feed(self._feeder.feeding(frames, before, index, (self.following, end), shown))
        self.newest.note(tokens, embeddings, aligned, index + len(before), watched)
        self.timeline = timeline

    def _longest_pause(self, frames: int) -> int | None:
        """Return the maximum positions of a pause before or between a number of frames; None for no limit."""
        return max(1, self.position_limit // (4 * frames)) if self.compact and self._spatial else None

    @property
    def closing(self) -> int:
        """Number of tokens that the model puts between frames and following text; 0 if text came last."""
        end = self.adapter.video_end() if self.timeline.base else None
        return 0 if end is None else len(end)

    @torch.no_grad()
    def end_video(self) -> None:
        """Append the tokens that the model puts after the last frame of a video, if frames came last."""
        if self.closing:
            self._feed_text(self.adapter.video_end().to(device_of(self.adapter.inner)))  # type: ignore[union-attr]

    @torch.no_grad()
    def feed_text(self, ids: Sequence[int]) -> Tensor:
        """Append text; return its last hidden states, (n, hidden)."""
        return self._feed_text(embedded(self.adapter, ids))

    def _feed_text(self, embeddings: Tensor) -> Tensor:
        read = self._feed(text_feeding(embeddings, self.layers[0].logical, self.following))
        self.timeline = self.timeline.interrupted()
        self.note_peak()
        return read

    @contextmanager
    def answering(self, ids: Sequence[int]) -> Iterator[None]:
        """Context manager for answering a question, with the frames that the method retrieves or re-encodes for it.

        Args:
            ids: token ids of the question.
        """
        with self.newest.anew(self.layers), self.archive.recalled(self, ids):
            self.note_peak()
            yield

    def generate(self, ids: Sequence[int], **options: Any) -> list[int]:
        """Call the model's own `generate()` on the stream followed by these tokens.

        Args:
            ids: text.
            **options: options of `generate()`.

        Returns:
            The new tokens; the last of them is not in the cache.
        """
        given = torch.tensor([list(ids)], device=device_of(self.adapter.inner))
        [reply] = generate_on(self.cache, self.adapter, given, torch.ones_like(given), **options)
        self.note_peak()
        self.timeline = self.timeline.interrupted()
        return reply

    def mark(self) -> Mark:
        """Return the current point of the stream, for `rewind`."""
        layers = tuple(layer.mark() for layer in self.layers)
        return Mark(layers, self.timeline, self.evicted_text, copies(self.cache, 1))

    def rewind(self, mark: Mark) -> None:
        """Drop the text after a mark."""
        for layer, where in zip(self.layers, mark.layers, strict=True):
            layer.rewind(where)
        put_copies(self.cache, mark.others, 1)
        self.timeline, self.evicted_text = mark.timeline, mark.evicted_text

    def check_whole(self) -> None:
        """Raise CacheError if a push or a rescaling failed halfway."""
        for layer in self.layers:
            layer.check_whole()

    def text_left(self) -> int:
        """Return the text entries per layer for which a budget in bytes has room, including a chunk of frames after
        them.
        """
        return self._budget.text_left([layer.physical for layer in self.layers], self.timeline.grid)

    def short_of_frames(self, text: int) -> int:
        """Return how many text entries must be evicted from a budget in bytes, after `text` more tokens, so that frames
        keep enough entries.
        """
        held = self.layers[0].rows[0].text(self.layers[0].physical) + text
        return self._budget.short_of_frames(held, self.timeline.grid)

    def make_room(self, positions: int) -> None:
        """Ensure that enough positions are left. With `compact`, positions without entries are closed; if that does not
        suffice, earlier frames are rescaled.

        Raises:
            CacheError: text alone takes too many positions.
        """
        asking = self._feeder.asking(positions)
        needed, gaps = self.following + positions + asking, self.timeline.gaps
        if self.compact and gaps and (needed > self.position_limit or len(gaps) > _MOST_GAPS):
            self._move(Closing(self.timeline.runs, gaps, self._spatial, self.timeline.labelled))
            needed = self.following + positions + asking
        if needed <= self.position_limit:
            return
        if not self.compact:
            warn_caller(
                f"The stream has reached position {needed}, past the {self.position_limit} that the model was trained "
                "for: positions='compact' keeps it in range."
            )
            return
        most = self.position_limit - positions - asking
        wanted, timeline = min(self.position_limit // 2, most), self.timeline
        self._move(rescale_to(timeline.runs, self.following, wanted, self._spatial, most, timeline.labelled))

    def _forget_empty_runs(self) -> None:
        """Drop empty runs, to bound them by the entries held; reads the layers whenever their number has doubled."""
        if self.timeline.base is None and len(self.timeline.runs) > self._most_runs:
            times = (_present(layer)[..., 0] for layer in self.layers)
            self.timeline = self.timeline.without_empty(occupied(self.timeline.runs, times), self.compact)
            self._most_runs = max(_LEAST_RUNS, 2 * len(self.timeline.runs))

    def _move(self, change: Rescaling | Closing) -> None:
        timeline, remembered = self.timeline.moved(change), self.remembered and self.remembered.moved(change)
        with defer_sigint(), all_or_broken(self.layers):
            for layer in self.layers:
                rows = _moved(layer.rows, change)
                layer.move(change(_present(layer)), self._rope, rows)
            self.archive.move(change)
            self.timeline, self.remembered = timeline, remembered

    @torch.no_grad()
    def _feed(self, feeding: Feeding) -> Tensor:
        embeddings, positions = feeding.embeddings, feeding.positions
        whole = bool((positions == positions.round()).all())
        axes = (positions.long() if whole else positions).T[:, None].to(embeddings.device)
        output = self.adapter.text_model(
            inputs_embeds=embeddings[None],
            position_ids=axes if self._spatial else axes[0],
            use_cache=True,
            arrival=Arrival(feeding.layout, feeding.probes),
            **{CACHE: self.cache, **feeding.more},
        )
        states: Tensor = output.last_hidden_state[0]
        return states

    def note_peak(self, layers: object = None, peak: int = 0) -> None:
        """Update the peak with the current size of the cache and its peak within a pass."""
        held = sum(layer.bytes for layer in self.layers) + self.layers[0].staging_bytes
        self.peak_bytes = max(self.peak_bytes, max(peak, held) + self.uncompressed_bytes)


def _empty_cache(adapter: Adapter, method: Compressor, reserve: int, storage: Storage) -> DynamicCache:
    cache = DynamicCache(config=adapter.text_model.config)
    banked = partial(checked_banked, method)
    made = iter(storage_for(method, storage).layers(len(adapter.attentions), reserve, [RowState(following=0)], banked))
    cache.layers = [next(made) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _present(layer: CompressedLayer) -> Tensor:
    """Return the present (t, h, w) of a layer's entries, (1, kv_heads, entries, 3) fp32."""
    assert layer.places is not None
    return layer.places[..., Places.PRESENT if layer.places.shape[-1] == Places.COMPACT_WIDTH else Places.ORIGINAL]


def _moved(rows: Sequence[RowState], change: Rescaling | Closing) -> list[RowState]:
    return [replace(row, following=change.next_position(row.following or 0)) for row in rows]


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a method without keeping its owner alive, so that a cache is freed with its session."""
    found = WeakMethod(method)

    def call(*args: Any) -> None:
        if (alive := found()) is not None:
            alive(*args)

    return call
