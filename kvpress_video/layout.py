"""Which token is what: from placeholder ids and the grids that the vision tower was given, to tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .chunk import Row
from .entries import Grid, Kind, Tags
from .errors import UnsupportedModelError


@dataclass(frozen=True)
class Item:
    """One video or image as the model encoded it.

    Attributes:
        grid: its visual tokens.
        separators: further placeholder tokens after them that are no patch (a newline embedding); kept as text.
        importance: vision-attention importance of each visual token, (grid.tokens,) fp32, where it was captured.
    """

    grid: Grid
    separators: int = 0
    importance: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Placeholder tokens that it fills."""
        return self.grid.tokens + self.separators


@dataclass(frozen=True)
class Layout:
    """What a pass adds: tags (batch, n, Tags.WIDTH) int32, importance (batch, n) fp32, and a `Row` per row."""

    tags: Tensor
    importance: Tensor
    rows: list[Row]

    @property
    def visual(self) -> bool:
        """Whether any visual token is among them."""
        return any(row.held for row in self.rows)


def lay_out(
    input_ids: Tensor,
    valid: Tensor,
    placeholders: Mapping[Kind, int],
    items: Mapping[Kind, Sequence[Item]],
    past: int,
    first_segment: Sequence[int],
) -> Layout:
    """Tag every token of a pass.

    Args:
        input_ids: (batch, n), on the host.
        valid: (batch, n) bool, False for padding, on the host.
        placeholders: token id that stands for each visual token of a kind.
        items: videos and images in the order of their placeholders, row after row. Where rows were repeated after the
            items were encoded (beams, several samples), each stands for its repetitions.
        past: logical length before the pass.
        first_segment: per row, the ordinal of its next segment.

    Raises:
        UnsupportedModelError: placeholders and items do not fit each other.
    """
    ids = input_ids.numpy()
    batch, length = ids.shape
    tags = np.full((batch, length, Tags.WIDTH), -1, dtype=np.int32)
    importance = np.full((batch, length), np.nan, dtype=np.float32)
    tags[..., Tags.INDEX] = past + np.arange(length)
    tags[..., Tags.KIND] = Kind.TEXT
    found = {kind: ids == token for kind, token in placeholders.items()}
    owner = {kind: _owners(found[kind], items.get(kind, ()), kind) for kind in found}
    rows = []
    for row in range(batch):
        pieces = [piece for kind in found for piece in _pieces(found[kind][row], owner[kind][row], kind)]
        pieces.sort(key=lambda piece: piece.where[0])
        grids = {}
        for segment, piece in enumerate(pieces, first_segment[row]):
            grid = piece.item.grid
            where = piece.where[: grid.tokens]
            ordinal = np.arange(grid.tokens)
            tags[row, where, Tags.KIND] = piece.kind
            tags[row, where, Tags.SEGMENT] = segment
            tags[row, where, Tags.FRAME] = ordinal // grid.patches
            tags[row, where, Tags.ROW] = ordinal % grid.patches // grid.columns
            tags[row, where, Tags.COLUMN] = ordinal % grid.columns
            if piece.item.importance is not None:
                importance[row, where] = piece.item.importance.float().cpu().numpy()
            grids[segment] = grid
        padding = int((~valid[row]).sum())
        counts = {segment: grid.tokens for segment, grid in grids.items()}
        rows.append(Row(padding, counts, counts, grids))
    tags[~valid.numpy()] = -1
    return Layout(torch.from_numpy(tags), torch.from_numpy(importance), rows)


@dataclass(frozen=True)
class _Piece:
    kind: Kind
    item: Item
    where: np.ndarray


def _owners(found: np.ndarray, items: Sequence[Item], kind: Kind) -> list[list[Item]]:
    """The items of each row."""
    wanted, given = int(found.sum()), sum(item.tokens for item in items)
    if not wanted:
        return [[] for _ in found]
    if not given or wanted % given or len(found) % (wanted // given):
        raise UnsupportedModelError(
            f"The prompt holds {wanted} {kind.name.lower()} placeholder tokens but the vision tower was given "
            f"{given}: pass pixels and prompt of the same videos in one call, through the model's own processor; "
            "features that were encoded beforehand, and prompts cut inside a video, cannot be followed."
        )
    repeats = wanted // given
    owners: list[list[Item]] = []
    queue = list(items)
    for row in range(0, len(found), repeats):
        left, mine = int(found[row].sum()), []
        while left > 0:
            item = queue.pop(0)
            mine.append(item)
            left -= item.tokens
        if left < 0:
            raise UnsupportedModelError(f"A {kind.name.lower()} is split over two rows of the batch.")
        owners += [mine] * repeats
    return owners


def _pieces(found: np.ndarray, items: Sequence[Item], kind: Kind) -> list[_Piece]:
    where = np.flatnonzero(found)
    ends = np.cumsum([item.tokens for item in items])
    return [_Piece(kind, item, where[end - item.tokens : end]) for item, end in zip(items, ends, strict=True)]
