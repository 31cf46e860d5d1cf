"""A cache layer with two lengths: logical (tokens seen, which sets positions) and physical (entries held).

This file holds one class: all changes to a layer, by transformers and by compression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..compressor.base import Compressor, deferred
from ..compressor.entries import Context, Entries, Kind, LayerScores, Places, Tags
from ..compressor.rope import Rope
from ..errors import CacheError
from ..utils.stock_cache import stock_entry_bytes
from .allocation import Shares
from .compaction import moved
from .eviction import Evicting, EvictionPlan, plan_eviction
from .forward_pass import ForwardPass, RowState, joined_metadata, text_tags
from .held_entries import HeldEntries
from .layer_mark import LayerMark
from .quantization import Quantization


class CompressedLayer(HeldEntries):
    """One layer's entries and the state of the tokens seen, with every operation that changes them.

    `get_seq_length()` is logical, so that stock `generate()` derives the right positions; `get_mask_sizes()` is
    physical with an offset, so that stock masks cover the entries held.

    Attributes:
        keys, values, tags, places: see `HeldEntries`.
        quantization: how keys and values are quantised; None if they are not.
        logical: tokens seen.
        rows: one `RowState` per batch row.
        guarded: whether only the hooks can continue this cache correctly (padding, unequal layers, moved positions).
        broken: whether a pass failed halfway and left layers with different tokens.
        uneven: whether heads may hold different numbers of entries.
    """

    uneven: ClassVar[bool] = False
    quantization: Quantization | None = None

    def __init__(self, reserve: int = 0, rows: Sequence[RowState] = (), logical: int = 0) -> None:
        """Make an empty layer.

        Args:
            reserve: entries to reserve space for with the first one.
            rows: state of each row before the first pass.
            logical: tokens seen before the first pass.
        """
        super().__init__(reserve)
        self._forget(rows, logical)

    def _forget(self, rows: Sequence[RowState], logical: int = 0) -> None:
        self.logical = logical
        self._hidden = 0
        self.rows = list(rows)
        self._incoming: ForwardPass | None = None
        self.guarded = False
        self.broken = False

    @property
    def paddings(self) -> tuple[Any, ...]:
        """The padding of each row, to compare layers by."""
        return tuple(row.padding for row in self.rows)

    @property
    def incoming(self) -> ForwardPass | None:
        """The announced pass that has not ended."""
        return self._incoming

    @property
    def padded(self) -> bool:
        """Whether any row holds padding."""
        return any(row.padding for row in self.rows)

    @property
    def stock_bytes(self) -> int:
        """Bytes of keys and values in a stock cache that had seen the same tokens."""
        entries = self.entries(Context())
        batch, heads, *_ = entries.keys.shape
        return batch * heads * self.logical * stock_entry_bytes(entries.keys, entries.values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (batch, kv_heads, n, head_dim) and the metadata of the pass in flight.

        Raises:
            CacheError: the hooks are gone and continuing without them would give wrong answers.
        """
        self.check_whole()
        arriving = self._incoming or self._plain_text(key_states)
        before = self.physical
        if arriving.length == 1:
            self._buffers.append_step([key_states, value_states], arriving.metadata)
        else:
            metadata = joined_metadata([arriving.metadata], key_states.device)
            self._buffers.append([key_states, value_states, *metadata])
        self.rows = arriving.rows_after(self.rows or [RowState()] * len(key_states), before)
        self.logical += arriving.logical
        self._show()
        return self._present()

    def begin_pass(self, forward_pass: ForwardPass) -> None:
        """Announce a pass: the metadata of the tokens that the next `update` appends."""
        self._incoming = forward_pass

    def end_pass(self, failed: bool = False) -> None:
        """End the announced pass.

        Args:
            failed: whether it was abandoned. Layers may then hold different tokens, and the cache cannot be continued.
        """
        self._incoming = None
        self.broken = self.broken or failed

    def guard(self, needed: bool) -> None:
        """Set whether only the hooks can continue this cache correctly."""
        self.guarded = needed

    def mark(self) -> LayerMark:
        """Return the current state, for `rewind`."""
        return LayerMark(self.logical, self.physical, tuple(self.rows), self.broken)

    def rewind(self, mark: LayerMark) -> None:
        """Drop the text appended since a mark."""
        if self.physical > mark.physical:
            self.drop_last(self.physical - mark.physical)
        self.logical, self.rows, self.broken = mark.logical, list(mark.rows), mark.broken

    @contextmanager
    def hidden_prefix(self) -> Iterator[None]:
        """Count `get_seq_length()` from here on, since `generate()` treats its input as the whole prompt."""
        self._hidden = self.logical
        try:
            yield
        finally:
            self._hidden = 0

    def _plain_text(self, key_states: Tensor) -> ForwardPass:
        if self.guarded:
            raise CacheError(
                "This cache holds padded rows, layers of unequal length or moved positions: continue it inside "
                "kvpress_video.compress(model, …), which adapts masks and positions."
            )
        batch, _, length, _ = key_states.shape
        index = self.logical + torch.arange(length, device=key_states.device)
        width = Places.WIDTH if self.places is None else self.places.shape[-1]
        places = index[:, None].float().expand(batch, -1, width)
        return ForwardPass.of(text_tags(index.expand(batch, -1)), places, length, [RowState()] * batch)

    def check_whole(self) -> None:
        """Raise CacheError if a pass failed halfway."""
        if self.broken:
            raise CacheError("A pass on this cache failed halfway: start with a new cache.")

    def check_continues(self, batch: int, compact: bool, uneven: bool = False) -> None:
        """Raise CacheError unless a pass of `batch` rows with these positions and this kind of method can follow."""
        self.check_whole()
        widths = self._buffers.metadata_widths
        if not widths:
            return
        if len(self.rows) != batch:
            raise CacheError(f"The cache holds {len(self.rows)} rows, but {batch} came: continue with the same batch.")
        if self.uneven != uneven:
            which = "different" if self.uneven else "equal"
            raise CacheError(f"The method of this cache keeps {which} numbers in its heads: continue with the same.")
        if (widths[1] == Places.COMPACT_WIDTH) != compact:
            raise CacheError("The cache was made with other positions ('keep' or 'compact'): continue with the same.")

    def replace(self, entries: Entries, rows: Sequence[RowState]) -> None:
        """Replace the entries by ones that share no memory with them."""
        self._assign(entries, rows)
        self._show()
        self.rows = list(rows)

    def evict(
        self, entries: Entries, keep: Shares, method: Compressor, evicting: Evicting | None = None
    ) -> LayerScores | None:
        """Evict entries down to the shares, see `plan_eviction`.

        Args:
            entries: all entries held, with the method's inputs.
            keep: per row, entries to keep of each segment, per head.
            method: the method.
            evicting: called with the entries and the plan before it is applied.

        Returns:
            Scores for the next shallower layer, if the method needs them.
        """
        plan = plan_eviction(entries, self.rows, keep, method)
        scores = plan.layer_scores(entries) if deferred(method) else None
        if evicting is not None:
            evicting(entries, plan)
        self.keep(plan)
        return scores

    def keep(self, plan: EvictionPlan) -> None:
        """Keep the entries of a plan."""
        self._buffers.keep(plan.slots)
        plan.finish(self._buffers.held)
        self._show()
        self.rows = list(plan.rows)

    def move(self, target: Tensor, rope: Rope, rows: Sequence[RowState] | None = None) -> None:
        """Re-rotate every key.

        Args:
            target: new (t, h, w) of every entry, (batch, kv_heads, entries, 3).
            rope: rotation of the text model.
            rows: row states afterwards; the current ones by default.
        """
        entries = moved(self.entries(Context()), target, rope)
        entries = replace(entries, values=entries.values.clone(), tags=entries.tags.clone())
        self.replace(entries, self.rows if rows is None else rows)

    def repeat_first_row(self, shift: Tensor) -> None:
        """Copy the first row's entries to every row, with token indices moved by `shift`, (batch,) int64."""
        self.batch_select_indices(torch.zeros_like(shift, dtype=torch.long))
        if self.tags is not None:
            index = self.tags[..., Tags.INDEX]
            self.tags[..., Tags.INDEX] = torch.where(index < 0, index, index + shift.to(index)[:, None, None])

    def restore(self, parts: Sequence[Tensor], logical: int, rows: Sequence[RowState]) -> None:
        """Restore the contents of another layer.

        Args:
            parts: its keys, values, tags and places, which are copied; empty for an empty layer.
            logical: tokens that it had seen.
            rows: its row states.
        """
        if parts:
            keys, values, tags, places = (part.clone() for part in parts)
            self.replace(Entries(keys, values, tags, places), rows)
        self.logical, self.rows, self.guarded = logical, list(rows), True

    def _assign(self, entries: Entries, rows: Sequence[RowState]) -> None:
        self._buffers.assign([entries.keys, entries.values, entries.tags, entries.places])

    def extend(self, text: Entries) -> None:
        """Append text of one row that another cache has read; its indices continue from the tokens seen here."""
        index = self.logical + torch.arange(len(text), device=text.tags.device, dtype=torch.int32)
        tags = text.tags.clone()
        tags[..., Tags.INDEX] = index
        self._buffers.append([text.keys, text.values, tags, text.places])
        self._show()
        self.logical += len(text)
        self.rows = [row.after(RowState(following=len(text)), self.physical) for row in self.rows]

    def drop_last(self, entries: int) -> None:
        """Drop the newest entries of every row."""
        self._buffers.drop_last(entries)
        self._show()

    def get_seq_length(self, *args: Any) -> int:
        """Return the tokens seen, including evicted ones."""
        return self.logical - self._hidden

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """Return (keys that the mask covers, offset of the first); `query` is a length, before transformers 5
        positions.
        """
        length = query if isinstance(query, int) else query.shape[0]
        return self.physical + length, self.get_seq_length() - self.physical

    def reset(self) -> None:
        """Empty the layer."""
        self.keys = self.values = None
        self.is_initialized = False
        self._buffers.clear()
        self._forget(())

    def crop(self, tokens: int) -> None:
        """Remove the newest `-tokens` tokens, or shorten to `tokens` when positive.

        Raises:
            CacheError: this would reach back to where entries were evicted.
        """
        tokens = int(tokens)  # a tensor in some versions of transformers
        remove = -tokens if tokens <= 0 else max(self.get_seq_length() - tokens, 0)
        if not remove or self.tags is None or self.places is None:
            return
        newest = self.tags[:, :, -remove:]
        evicted = remove > self.physical or bool((newest[:, :, 0, Tags.INDEX] != self.logical - remove).any())
        if evicted or bool((newest[..., Tags.KIND] != Kind.TEXT).any()):
            raise CacheError(f"Cannot crop {remove} tokens: visual tokens are among them. Crop text only.")
        self.drop_last(remove)
        self.logical -= remove
        self.rows = [row if row.following is None else replace(row, following=row.following - remove)
                     for row in self.rows]  # fmt: skip

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows, for beam search."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        if self.tags is None or self.places is None:
            return
        self._map_rows(lambda part: part.index_select(0, indices.to(part.device)))
        same = all(row == self.rows[0] for row in self.rows)
        self.rows = self.rows[:1] * len(indices) if same else [self.rows[i] for i in indices.tolist()]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        if self.tags is None or self.places is None:
            return
        self._map_rows(lambda part: part.repeat_interleave(repeats, dim=0))
        self.rows = [row for row in self.rows for _ in range(repeats)]

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self._buffers.map_rows(change)
        self._show()
