"""Split a pass into chunks of whole frames, plus the text after the last visual token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cache.forward_pass import ForwardPass, RowState
from ..compressor.entries import Kind, Places, Tags, is_visual
from ..errors import MissingInputError
from .token_layout import label_counts, label_state


@dataclass(frozen=True)
class Chunk:
    """Some columns of a pass, padded on the left to the same length, followed by probes.

    Attributes:
        columns: (batch, n) int64, on the host; 0 if padded.
        real: (batch, n) bool, on the host.
        rows: change of each row's state by these columns.
        text: text columns of each row other than labels, without probes.
        probes: number of probes, the last columns, which are not kept.
        repeated: number of probes, the last ones, that repeat frames of this chunk.
    """

    columns: Tensor
    real: Tensor
    rows: Sequence[RowState]
    text: Sequence[int]
    probes: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return self.columns.shape[1]

    @cached_property
    def _span(self) -> slice | None:
        """The range of the columns, if they are contiguous, equal in every row and without padding."""
        start, length = int(self.columns[0, 0]), len(self)
        alike = bool(self.real.all()) and bool((self.columns == start + torch.arange(length)).all())
        return slice(start, start + length) if alike else None

    def take(self, states: Tensor) -> Tensor:
        """Select the columns, (batch, length, …) -> (batch, n, …); a view if they are contiguous."""
        if self._span is not None:
            return states[: len(self.columns), self._span]
        columns = self.columns.to(states.device)
        return states[torch.arange(len(columns), device=states.device)[:, None], columns]

    def first_row(self) -> Chunk:
        """Return the chunk for the first row alone."""
        return replace(self, columns=self.columns[:1], real=self.real[:1], rows=self.rows[:1], text=self.text[:1])

    def asking(self, last: Chunk, probes: int) -> Chunk:
        """Return this chunk followed by the last tokens of another as probes."""
        columns = torch.cat([self.columns, last.columns[:, -probes:]], dim=1)
        real = torch.cat([self.real, last.real[:, -probes:]], dim=1)
        return replace(self, columns=columns, real=real, probes=probes)

    def repeating(self, whole: ForwardPass) -> Chunk:
        """Return this chunk followed by its own frames and labels again as further probes."""
        framed = (self.take(whole.tags)[..., Tags.SEGMENT].cpu() >= 0) & self.real
        framed[:, len(self) - self.probes :] = False
        count = int(framed.sum(dim=1).max())
        places = torch.arange(len(self)).expand_as(framed).masked_fill(~framed, -1).sort(dim=1).values[:, -count:]
        columns = self.columns.gather(1, places.clamp_min(0)).masked_fill(places < 0, 0)
        columns, real = torch.cat([self.columns, columns], dim=1), torch.cat([self.real, places >= 0], dim=1)
        return replace(self, columns=columns, real=real, probes=self.probes + count, repeated=count)

    def chunk(self, whole: ForwardPass, logical: int, compress: bool) -> ForwardPass:
        """Return these columns as a separate pass."""
        tags, places = self.take(whole.tags), self.take(whole.places)
        tags = tags.masked_fill(~self.real.to(tags.device)[..., None], Kind.PADDING)
        if self.probes:
            places = _following(places, self.real.to(places.device), self.probes, self.repeated)
        if self.repeated:
            tags[..., -self.repeated :, Tags.INDEX] = _later(tags[..., Tags.INDEX], self.repeated)
        return whole.with_metadata(tags, places, logical=logical, rows=self.rows, compress=compress, stock_mask=False,
                                   probes=self.probes)  # fmt: skip

    def put(self, whole: Tensor, states: Tensor) -> None:
        """Write (batch, n, d) states to their columns of (batch, length, d)."""
        kept = len(self) - self.probes
        if self._span is not None:
            whole[:, self._span.start : self._span.start + kept] = states
            return
        row, place = self.real[:, :kept].nonzero(as_tuple=True)
        whole[row, self.columns[row, place]] = states[row, place]


class Chunks(NamedTuple):
    """Chunks that each end with a frame, and the text after the last one; None if no row has any."""

    visual: list[Chunk]
    rest: Chunk | None

    def asking(self, probes: int) -> Chunks:
        """Append the last tokens of the text to each visual chunk as probes; fewer in rows that have fewer.

        Raises:
            MissingInputError: a row has none.
        """
        if self.rest is None or not min(self.rest.text):
            raise MissingInputError(
                "The method asks with the last text tokens of the prompt, but this one ends in a visual token: "
                "put text after it."
            )
        rest, count = self.rest, min(probes, *self.rest.text)
        return Chunks([part.asking(rest, count) for part in self.visual], rest)

    def repeating(self, whole: ForwardPass) -> Chunks:
        """Append its own frames to each visual chunk again, after its probes."""
        return Chunks([part.repeating(whole) for part in self.visual], self.rest)

    def placed(self, rows: Sequence[RowState]) -> Chunks:
        """Return the chunks of the pass with compact target positions; the first one carries the shift of its rows."""
        first = self.visual[0]
        shifted = [replace(row, shift=whole.shift) for row, whole in zip(first.rows, rows, strict=True)]
        return Chunks([replace(first, rows=shifted), *self.visual[1:]], self.rest)

    @property
    def waiting(self) -> list[int]:
        """Text entries after each visual chunk, in the row with most."""
        text = np.array([part.text for part in (*self.visual, *([self.rest] if self.rest else []))])
        later = text[::-1].cumsum(axis=0)[::-1] - text
        return [int(count) for count in later.max(axis=1)[: len(self.visual)]]

    def in_work(self, share: float, own_text: bool = False) -> int:
        """Maximum entries of a row that a chunk adds to one layer beyond the room reserved for later text.

        Args:
            share: entries in work that fit into the room of one later text entry.
            own_text: whether the text of the chunk counts.
        """
        brought = (len(part) - (0 if own_text else min(part.text)) for part in self.visual)
        return max(0, *(count - int(share * later) for count, later in zip(brought, self.waiting, strict=True)))


def cut(chunk: ForwardPass, most: int | None = None, blocks: bool = False) -> Chunks:
    """Cut a pass into chunks. A row without visual tokens leaves its last token for the text after them.

    Args:
        chunk: the pass.
        most: maximum visual and label tokens of a chunk, in whole frames, at least one; None for a single chunk.
        blocks: whether adjacent visual tokens attend to each other bidirectionally, so that they may not be separated.
    """
    tags = chunk.tags.cpu().numpy()
    valid, framed = tags[..., Tags.INDEX] >= 0, tags[..., Tags.SEGMENT] >= 0
    column = np.arange(tags.shape[1])
    last = np.where(
        framed.any(axis=1), np.where(framed, column, -1).max(axis=1) + 1, np.where(valid, column, 0).max(axis=1)
    )
    before = valid & (column < last[:, None])
    after = valid & ~before
    number = np.stack([_part_numbers(row, most, blocks) for row in tags])
    parts = [_part(before & (number == each), chunk.rows, tags) for each in range(number.max() + 1)]
    return Chunks(parts, _part(after, chunk.rows, tags) if after.any() else None)


def _part_numbers(tags: np.ndarray, most: int | None, blocks: bool) -> np.ndarray:
    """Return the chunk of each column of a row; text belongs to the frame after it, a label to its own frame."""
    numbers = np.zeros(len(tags), dtype=np.int64)
    where = np.flatnonzero(tags[:, Tags.SEGMENT] >= 0)
    if most is None or not len(where):
        return numbers
    frame = tags[where][:, [Tags.SEGMENT, Tags.FRAME]]
    apart = (frame[1:] != frame[:-1]).any(axis=1)
    if blocks:
        visual = is_visual(tags[where, Tags.KIND])
        apart &= ~(visual[1:] & visual[:-1]) | (np.diff(where) > 1)
    starts = np.flatnonzero(np.r_[True, apart])
    sizes = np.diff(np.r_[starts, len(where)])
    filled = 0
    for start, size in zip(starts, sizes, strict=True):
        if filled and filled + size > most:
            numbers[where[start - 1] + 1 :] += 1
            filled = 0
        filled += size
    return numbers


def _part(chosen: np.ndarray, rows: Sequence[RowState], tags: np.ndarray) -> Chunk:
    counts = chosen.sum(axis=1)
    length = counts.max()
    columns = np.zeros((len(chosen), length), dtype=np.int64)
    real = np.arange(length) >= length - counts[:, None]
    columns[real] = chosen.nonzero()[1]
    mine = [_row(tags[row][mask], whole) for row, (mask, whole) in enumerate(zip(chosen, rows, strict=True))]
    text = [row.text(int(count)) for count, row in zip(counts, mine, strict=True)]
    padded = [replace(row, padding=int(length - count)) for row, count in zip(mine, counts, strict=True)]
    return Chunk(torch.from_numpy(columns), torch.from_numpy(real), padded, text)


def _row(tags: np.ndarray, whole: RowState) -> RowState:
    """Return the change of a row's state by some tokens (n, Tags.WIDTH)."""
    visual = is_visual(tags[:, Tags.KIND])
    segment = np.where(visual, tags[:, Tags.SEGMENT], -1)
    found = {number: segment == number for number in whole.grids if (segment == number).any()}
    counts = {number: int(mask.sum()) for number, mask in found.items()}
    grids = {
        number: whole.grids[number]._replace(frames=int(tags[mask, Tags.FRAME].max()) + 1)
        for number, mask in found.items()
    }
    first = {number: int(mask.argmax()) for number, mask in found.items()}
    starts = {number: start for number, start in first.items() if found[number][start : start + counts[number]].all()}
    named = tags[tags[:, Tags.KIND] == Kind.LABEL]
    labels = {number: label_counts(named[named[:, Tags.SEGMENT] == number, Tags.FRAME]) for number in whole.labels}
    return RowState(0, counts, counts, grids, starts, *label_state(labels))


def _later(index: Tensor, repeated: int) -> Tensor:
    """Return the token indices of repeated frames, after all others, (batch, repeated); -1 for padding."""
    after = index[:, :-repeated].amax(dim=1, keepdim=True) + 1 + torch.arange(repeated, device=index.device)
    return torch.where(index[:, -repeated:] < 0, Kind.PADDING, after.to(index))


def _following(places: Tensor, real: Tensor, probes: int, repeated: int = 0) -> Tensor:
    """Return the places of a chunk whose probes directly follow it; repeated frames keep their relative positions."""
    own = places[:, :-probes].masked_fill(~real[:, :-probes, None], -torch.inf)
    placed = places.clone()
    for axes in (Places.ORIGINAL, Places.PRESENT, Places.TARGET)[: 1 if places.shape[-1] == Places.WIDTH else 3]:
        end = own[..., axes].amax(dim=(1, 2)).floor() + 1
        step = torch.arange(probes, device=places.device)
        placed[:, -probes:, axes] = (end[:, None] + step)[..., None]
        if repeated:
            frames = places[:, -repeated:, axes]
            first = frames.masked_fill(~real[:, -repeated:, None], torch.inf).amin(dim=(1, 2), keepdim=True)
            placed[:, -repeated:, axes] = frames - first + (end + probes - repeated)[:, None, None]
    return placed


def same_in_all_rows(parts: Sequence[Chunk], whole: ForwardPass, embeddings: Tensor) -> bool:
    """Whether every row repeats the first, as for several questions about one video, beams, or samples."""
    if len(whole.rows) == 1:
        return False
    for part in parts:
        if not bool(part.real.all()) or any(row != part.rows[0] for row in part.rows):
            return False
        content = part.take(whole.tags)[..., Tags.KIND :]
        places = part.take(whole.places)[:, : len(part) - part.probes, : Places.IMPORTANCE]  # probes get theirs later
        if not all(bool((states == states[:1]).all()) for states in (content, places, part.take(embeddings))):
            return False
    return True
