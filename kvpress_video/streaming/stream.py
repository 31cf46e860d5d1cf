"""One endless sequence in a capped cache: text and frames go in, positions follow time, `generate()` goes on.

One class fills this file: whatever changes the cache of a stream changes its positions too.
"""

from __future__ import annotations

import warnings
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
from ..cache.allocation import BudgetAllocator
from ..cache.forward_pass import RowState, text_tags
from ..cache.layer import CompressedLayer, LayerMark
from ..cache.offloaded_layer import make_layers
from ..cache.staging import HALVES
from ..cache.uncompressed import copies, put_copies, states
from ..compressor.base import Compressor, checked_banked, even
from ..compressor.entries import Kind, Places, Tags, is_visual
from ..errors import UnsupportedModelError, VideoError
from ..models.base import Adapter
from ..models.devices import device_of
from ..prefill.hooks import ModelHooks
from ..prefill.options import Labels, PrefillOptions
from ..prefill.pass_reader import Arrival
from ..prefill.token_layout import TokenLayout, label_state
from ..utils.concurrency import defer_sigint, entered, model_lock, under_lock
from ..utils.method_patch import replaced
from .frame_tokens import FrameTokens, LabelIds
from .new_prompt import as_new_prompt
from .position_gaps import Closing
from .position_rescaling import Rescaling, Run, occupied, rescale_to, with_gaps
from .timeline import Timeline

_TEXT_ROOM = 256  # entries of text that are made room for beforehand
_VIDEO = 0  # the segment of a stream's frames
_LEAST_RUNS = 16  # fewer are not looked through for empty ones
_MOST_GAPS = 16  # that wait to be closed


class Mark(NamedTuple):
    """A point in a stream to return to: the state of every layer, the timeline, the text evicted before, and copies of
    the layers that are not compressed.
    """

    layers: tuple[LayerMark, ...]
    timeline: Timeline
    evicted_text: int
    others: Mapping[int, Any]

    def moved(self, change: Rescaling | Closing) -> Mark:
        """Return the same point after positions have moved."""
        layers = tuple(layer._replace(rows=tuple(_moved(layer.rows, change))) for layer in self.layers)
        return self._replace(layers=layers, timeline=self.timeline.moved(change))


class Stream:
    """An endless sequence of text and frames in one capped cache.

    Attributes:
        cache: a transformers cache.
        compact: whether positions are rescaled.
        timeline: where the frames stand.
        remembered: a mark that follows all moves, so that it can be returned to later; no frames came since.
        evicted_text: text entries per layer and KV head that have left.
        peak_bytes: the most that the cache ever held, and the buffers that a bank is read from.
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
        bank_on: str = "device",
        labels: Labels = "spread",
    ) -> None:
        """Make an empty stream.

        Args:
            chunk: most visual tokens of one feeding.
            text_room: text entries that a budget of bytes is kept free for after every feeding.
            opening: most text that opens frames between two questions, in tokens.
            label_tokens: text of a temporal step, in tokens: that of the first, and the most there can be.
            position_limit: positions that the model knows; what its configuration says when None.
            probes: token ids that may ask after each feeding, for methods that look at attention.
            bank_on: where entries live that the method considers banked.
            labels: what becomes of the text of frames, see `compress`.
        """
        if adapter.unstreamed:
            raise UnsupportedModelError(
                f"{type(adapter.model).__name__} {adapter.unstreamed}: use compress() with a budget of tokens or "
                "bytes, whose prefill is capped."
            )
        if adapter.sliding and compact:
            raise UnsupportedModelError(
                f"{type(adapter.model).__name__} has sliding layers, whose keys do not move with those of the others: "
                "use positions='keep'."
            )
        self.adapter = adapter
        config = adapter.text_model.config
        self.position_limit = config.max_position_embeddings if position_limit is None else position_limit
        self.compact = compact
        observer: Any = method.observer
        layers = len(adapter.attentions)
        self._probes = list(probes)[-observer.probe :] if "probe" in method.needs else []
        first, self._longest_label = label_tokens
        self._repeats = "reconstruction" in method.needs
        framed = chunk + chunk // (1 + first) * (self._longest_label - first)
        in_work = (1 + self._repeats) * framed + opening + len(self._probes)
        in_work += chunk if labels == "keep" else 0  # as much text may come between the frames
        in_work += 0 if even(method) else layers  # shares of layers are rounded
        self._options = options = PrefillOptions(
            chunk=chunk,
            positions="compact" if compact else "keep",
            text_room=text_room + (0 if even(method) else opening),
            in_work=in_work,
            staging_bytes=0 if bank_on == "device" else HALVES * adapter.state_bytes,
            labels=labels,
        )
        self._method, self._budget, self._opening = method, budget, opening
        self._hooks = ModelHooks(adapter, method, budget, options, _weakly(self.note_peak))
        self._rope = adapter.rope()
        self._spatial = bool(self._rope.axes.any())
        self._labelled = options.labelled
        self.timeline = Timeline(self._spatial, labelled=adapter.labelled)
        self._most_runs = _LEAST_RUNS
        self.remembered: Mark | None = None
        self.evicted_text = self.peak_bytes = 0
        self.cache = DynamicCache(config=config)
        made = make_layers(bank_on, layers, self._reserve(), [RowState(following=0)], partial(checked_banked, method))
        mine = iter(made)
        self.cache.layers = [next(mine) if type(layer) is DynamicLayer else layer for layer in self.cache.layers]

    def _reserve(self) -> int:
        """Return the entries of a layer to make room for at the start."""
        if self._budget.unit == "ratio":
            return 0
        allocator = self._allocator
        if self._budget.unit == "tokens":
            chunk = (1 + self._repeats) * (self._options.chunk or 0)
            return allocator.length + chunk + len(self._probes) + _TEXT_ROOM
        if allocator.staging_bytes:
            return allocator.longest(allocator.length)
        return allocator.length + allocator.in_work

    @property
    def layers(self) -> list[CompressedLayer]:
        """The cache's compressed layers."""
        return layers_of(self.cache)

    @property
    def uncompressed_bytes(self) -> int:
        """Bytes that the other layers hold."""
        return sum(state.nbytes for state in states(self.cache).values())

    @property
    def following(self) -> int:
        """The position of the next text token."""
        return self.layers[0].rows[0].following or 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the hooks on while something is fed or generated, under the model's lock.

        Calls of the model from other threads wait for the lock, and find the stock model.
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
            inputs: what the model's processor makes of them.
            seconds: when each temporal step is shown.
            before: token ids of the text that opens a run.
            labels: token ids around each temporal step.
        """
        features, aligned, item = self._hooks.vision.encode(inputs.to(device_of(self.adapter.inner)))
        grid, seen = item.grid, self.timeline.grid
        if seen is not None and seen[1:] != grid[1:]:
            raise VideoError(
                f"The frames make {grid.rows}×{grid.columns} visual tokens, but the stream began with "
                f"{seen.rows}×{seen.columns}: keep to one size."
            )
        tokens = FrameTokens(grid, labels, item.shown)
        self._forget_empty_runs()
        for _ in range(2):  # making room may move what these frames follow
            start = self.following + len(before)
            shown, timeline = self._placed(tokens, seconds, start)
            end = timeline.runs[-1].end
            self.make_room(end - self.following)
        text, asking = _text_positions(self.following, len(before)), _text_positions(end, len(self._probes))
        frames = tokens.embedded(features, self._embed(tokens.ids))
        again = len(shown) if self._repeats else 0
        repeated = (shown - shown.amin() + end + len(self._probes))[:again]
        embeddings = torch.cat([self._embed(before), frames, self._embed(self._probes), frames[:again]])
        layout = self._frame_layout(tokens, len(before), item.importance, end)
        more = {}
        if aligned is not None:
            aligned = torch.cat([aligned, aligned]) if again else aligned
            more = self.adapter.aligned_inputs(aligned, is_visual(layout.tags[..., Tags.KIND]).to(aligned.device))
        probes = len(self._probes) + again
        self._feed(embeddings, layout, torch.cat([text, shown, asking, repeated]), probes, more)
        self.timeline = timeline

    def _placed(self, tokens: FrameTokens, seconds: Sequence[float], start: int) -> tuple[Tensor, Timeline]:
        """(t, h, w) of each token of frames that a run could begin with at `start`, and the timeline with them."""
        if self.timeline.labelled:
            return self.timeline.counted(tokens, seconds, start)
        frames = tokens.grid.frames
        longest = max(1, self.position_limit // (4 * frames)) if self.compact and self._spatial else None
        return self.timeline.shown(self.adapter, tokens.grid, seconds, start, longest)

    @property
    def closing(self) -> int:
        """Tokens that the model itself puts between the frames so far and text; 0 where text came last."""
        end = self.adapter.video_end() if self.timeline.base else None
        return 0 if end is None else len(end)

    @torch.no_grad()
    def end_video(self) -> None:
        """Append what the model itself puts after the last frame of a video, where frames came last."""
        if self.closing:
            self._feed_text(self.adapter.video_end().to(device_of(self.adapter.inner)))  # type: ignore[union-attr]

    @torch.no_grad()
    def feed_text(self, ids: Sequence[int]) -> None:
        """Append text."""
        self._feed_text(self._embed(ids))

    def _feed_text(self, embeddings: Tensor) -> None:
        tags = self._text_tags(len(embeddings))
        row = RowState(following=len(embeddings))
        layout = TokenLayout(tags, torch.full(tags.shape[:2], torch.nan), [row])
        self._feed(embeddings, layout, _text_positions(self.following, len(embeddings)), 0, {})
        self.timeline = self.timeline.interrupted()
        self.note_peak()

    def generate(self, ids: Sequence[int], **options: Any) -> list[int]:
        """The model's own `generate()` on what was seen and these tokens.

        Args:
            ids: text.
            **options: of `generate()`.

        Returns:
            The new tokens; the last of them is not in the cache.
        """
        given = torch.tensor([list(ids)], device=device_of(self.adapter.inner))
        reply = self.generate_from(self.cache, given, torch.ones_like(given), **options)[0]
        self.note_peak()
        self.timeline = self.timeline.interrupted()
        return reply

    @torch.no_grad()
    def generate_from(self, cache: DynamicCache, ids: Tensor, mask: Tensor, **options: Any) -> list[list[int]]:
        """The same on any cache of streams, with ids and mask (rows, n), padded on the left."""
        with as_new_prompt(self.adapter, cache):
            output = self.adapter.wrapper.generate(  # type: ignore[operator]
                input_ids=ids, attention_mask=mask, past_key_values=cache, **options
            )
        new: list[list[int]] = output[:, ids.shape[1] :].tolist()
        return new

    def mark(self) -> Mark:
        """Return where the stream is, for `rewind`."""
        layers = tuple(layer.mark() for layer in self.layers)
        return Mark(layers, self.timeline, self.evicted_text, copies(self.cache, 1))

    def rewind(self, mark: Mark) -> None:
        """Forget the text that came after a mark."""
        for layer, where in zip(self.layers, mark.layers, strict=True):
            layer.rewind(where)
        put_copies(self.cache, mark.others, 1)
        self.timeline, self.evicted_text = mark.timeline, mark.evicted_text

    def check_whole(self) -> None:
        """Raise CacheError if a push, or a squeeze, failed halfway."""
        for layer in self.layers:
            layer.check_whole()

    def text_left(self) -> int:
        """Text entries per layer that a budget of bytes has room for, a chunk of frames after them paid for."""
        held = -(-sum(layer.physical for layer in self.layers) // len(self.layers))
        return self._allocator.length - held - (0 if even(self._method) else self._opening)

    def short_of_frames(self, text: int) -> int:
        """Return how much less text a budget of bytes has to hold, once `text` more tokens have come, so that frames
        keep as many entries as a chunk has and as one frame has, or half of all that are not kept free for text.
        """
        held = self.layers[0].rows[0].text(self.layers[0].physical) + text
        room = self._allocator.length - self._options.text_room
        return held + min(max(self._options.chunk or 0, self._frame), room // 2) - room

    @property
    def _allocator(self) -> BudgetAllocator:
        """Allocates the budget, in the dtypes that the model caches now; a frame may be larger than a chunk."""
        window = self.adapter.text_model.config.max_position_embeddings  # more than any holds
        allocator = self._options.allocator(self.adapter, self._method, self._budget, window)
        frame = (1 + self._repeats) * self._frame + self._opening + len(self._probes)
        return replace(allocator, in_work=max(allocator.in_work, frame))

    @property
    def _frame(self) -> int:
        """Most tokens of a frame and its label, as far as frames were seen."""
        grid = self.timeline.grid
        return self._longest_label + (grid.patches if grid else 0)

    def make_room(self, positions: int) -> None:
        """Make sure that enough positions are left. Under `compact`, everything moves down over the positions of text
        that has left; if that is not enough, those of earlier frames are rescaled.

        Raises:
            CacheError: text alone takes too many.
        """
        asking = len(self._probes) + self._repeats * positions
        needed, gaps = self.following + positions + asking, self.timeline.gaps
        if self.compact and gaps and (needed > self.position_limit or len(gaps) > _MOST_GAPS):
            self._move(Closing(self.timeline.runs, gaps, self._spatial, self.timeline.labelled))
            needed = self.following + positions + asking
        if needed <= self.position_limit:
            return
        if not self.compact:
            warnings.warn(
                f"The stream has come to position {needed}, past the {self.position_limit} that the model was trained "
                "for: positions='compact' keeps it inside.",
                stacklevel=2,
            )
            return
        most = self.position_limit - positions - asking
        self._squeeze(min(self.position_limit // 2, most), most)

    def _forget_empty_runs(self) -> None:
        """Keep the number of runs in proportion to what is held; looks at the layers whenever it has doubled."""
        if self.timeline.base is None and len(self.timeline.runs) > self._most_runs:
            times = (_present(layer)[..., 0] for layer in self.layers)
            self.timeline = self.timeline.without_empty(occupied(self.timeline.runs, times))
            self._most_runs = max(_LEAST_RUNS, 2 * len(self.timeline.runs))

    def _squeeze(self, wanted: int, most: int) -> None:
        runs: Sequence[Run] = self.timeline.runs
        if self.timeline.vacant:
            layer: Any = self.layers[0]
            text = layer.tags[0, 0, :, Tags.KIND] == Kind.TEXT
            runs = with_gaps(runs, _present(layer)[0, 0, text, 0].cpu())
        self._move(rescale_to(runs, self.following, wanted, self._spatial, most, self.timeline.labelled))

    def _move(self, change: Rescaling | Closing) -> None:
        timeline, remembered = self.timeline.moved(change), self.remembered and self.remembered.moved(change)
        with defer_sigint(), all_or_broken(self.layers):
            for layer in self.layers:
                rows = _moved(layer.rows, change)
                layer.move(change(_present(layer)), self._rope, rows)
            self.timeline, self.remembered = timeline, remembered

    def _text_tags(self, length: int) -> Tensor:
        return text_tags(self.layers[0].logical + torch.arange(length)[None])

    def _frame_layout(self, tokens: FrameTokens, before: int, importance: Tensor | None, end: int) -> TokenLayout:
        seen, grid, visual = self.timeline.frames, tokens.grid, tokens.visual
        shown = len(tokens.ordinals)
        tags = self._text_tags(before + (1 + self._repeats) * len(visual) + len(self._probes))
        frames = slice(before, before + len(visual))
        index = self.layers[0].logical + before
        tags[0, frames] = tokens.tags(index, _VIDEO, seen, self._labelled)
        if self._repeats:
            tags[0, -len(visual) :, Tags.KIND :] = tags[0, frames, Tags.KIND :]
        found = torch.full(tags.shape[:2], torch.nan)
        if importance is not None:
            found[0, frames][visual] = importance.float().cpu()[tokens.ordinals]
        labels, labels_seen = label_state({_VIDEO: tokens.label_counts(seen)} if self._labelled else {})
        row = RowState(
            held={_VIDEO: shown},
            seen={_VIDEO: shown},
            grids={_VIDEO: grid._replace(frames=seen + grid.frames)},
            starts={_VIDEO: before} if bool(visual.all()) else {},
            labels=labels,
            labels_seen=labels_seen,
            following=end - self.following,
        )
        return TokenLayout(tags, found, [row])

    def _embed(self, ids: Sequence[int]) -> Tensor:
        device = device_of(self.adapter.inner)
        embedded: Tensor = self.adapter.inner.get_input_embeddings()(
            torch.tensor(list(ids), dtype=torch.long, device=device)
        )
        return embedded

    @torch.no_grad()
    def _feed(
        self, embeddings: Tensor, layout: TokenLayout, positions: Tensor, probes: int, more: Mapping[str, Any]
    ) -> None:
        whole = bool((positions == positions.round()).all())
        axes = (positions.long() if whole else positions).T[:, None].to(embeddings.device)
        self.adapter.text_model(
            inputs_embeds=embeddings[None],
            position_ids=axes if self._spatial else axes[0],
            past_key_values=self.cache,
            use_cache=True,
            arrival=Arrival(layout, probes),
            **more,
        )

    def note_peak(self, layers: object = None, peak: int = 0) -> None:
        """Remember what the cache holds now, and held at the most in a pass, if that is the most ever."""
        held = sum(layer.bytes for layer in self.layers) + self.layers[0].staging_bytes
        self.peak_bytes = max(self.peak_bytes, max(peak, held) + self.uncompressed_bytes)


def _present(layer: CompressedLayer) -> Tensor:
    """Present (t, h, w) of what a layer holds, (1, kv_heads, entries, 3) fp32."""
    assert layer.places is not None
    return layer.places[..., Places.PRESENT if layer.places.shape[-1] == Places.COMPACT_WIDTH else Places.ORIGINAL]


def _moved(rows: Sequence[RowState], change: Rescaling | Closing) -> list[RowState]:
    return [replace(row, following=change.next_position(row.following or 0)) for row in rows]


def _text_positions(start: int, length: int) -> Tensor:
    return (start + torch.arange(length, dtype=torch.float32))[:, None].expand(-1, 3)


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """A call that does not keep the method's owner alive, so that a cache goes as soon as its session does."""
    found = WeakMethod(method)

    def call(*args: Any) -> None:
        if (alive := found()) is not None:
            alive(*args)

    return call
