"""Cut a pass in two: up to each row's last visual token, and the text after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cache import Chunk, CompressedLayer, Row
from .entries import Kind, Places, Tags


@dataclass(frozen=True)
class Part:
    """Some columns of a pass, padded on the left to one length.

    Attributes:
        columns: (batch, n) int64, on the host; 0 where padded.
        real: (batch, n) bool, on the host.
    """

    columns: Tensor
    real: Tensor

    def __len__(self) -> int:
        return self.columns.shape[1]

    @property
    def padding(self) -> list[int]:
        """Padding of each row."""
        return (~self.real).sum(dim=1).tolist()

    def take(self, states: Tensor) -> Tensor:
        """(batch, length, …) -> (batch, n, …)."""
        columns = self.columns.to(states.device)
        return states[torch.arange(len(columns), device=states.device)[:, None], columns]

    def chunk(self, whole: Chunk, rows: Sequence[Row], logical: int, compress: bool) -> Chunk:
        """This part of a chunk, as a pass of its own."""
        tags = self.take(whole.tags)
        tags = tags.masked_fill(~self.real.to(tags.device)[..., None], Kind.PADDING)
        padded = [replace(row, padding=padding) for row, padding in zip(rows, self.padding, strict=True)]
        return Chunk(tags, self.take(whole.places), logical, padded, compress, stock_mask=False)

    def put(self, whole: Tensor, states: Tensor) -> None:
        """Write (batch, n, d) states to their columns of (batch, length, d)."""
        row, place = self.real.nonzero(as_tuple=True)
        whole[row, self.columns[row, place]] = states[row, place]


def split(chunk: Chunk) -> tuple[Part, Part] | None:
    """The two parts of a pass; None where every row ends in a visual token, so that nothing is left for the second.

    A row without visual tokens leaves its last token for the second part.
    """
    tags = chunk.tags.cpu().numpy()
    valid, visual = tags[..., Tags.INDEX] >= 0, tags[..., Tags.KIND] > Kind.TEXT
    column = np.arange(tags.shape[1])
    last = np.where(
        visual.any(axis=1), np.where(visual, column, -1).max(axis=1) + 1, np.where(valid, column, 0).max(axis=1)
    )
    before = valid & (column < last[:, None])
    after = valid & ~before
    if not after.any():
        return None
    return _part(before), _part(after)


def _part(chosen: np.ndarray) -> Part:
    counts = chosen.sum(axis=1)
    length = counts.max()
    columns = np.zeros((len(chosen), length), dtype=np.int64)
    real = np.arange(length) >= length - counts[:, None]
    columns[real] = chosen.nonzero()[1]
    return Part(torch.from_numpy(columns), torch.from_numpy(real))


def same_in_all_rows(chunk: Chunk, arguments: dict[str, Any]) -> bool:
    """Whether every row of a pass repeats the first: several questions on one video, beams, or samples."""
    batch = chunk.tags.shape[0]
    if batch == 1 or any(row != chunk.rows[0] for row in chunk.rows):
        return False
    content = chunk.tags[..., Tags.KIND :]
    places = chunk.places[..., : Places.IMPORTANCE]
    return all(bool((part == part[:1]).all()) for part in (content, places, arguments["inputs_embeds"]))


def repeat_rows(layers: Sequence[CompressedLayer], first: Chunk, whole: Chunk) -> None:
    """Give every row the cache of the first, with its own token indices."""
    shift = whole.tags[:, -1, Tags.INDEX] - first.tags[:, -1, Tags.INDEX]
    for layer in layers:
        layer.batch_repeat_interleave(len(shift))
        if layer.tags is not None:
            index = layer.tags[..., Tags.INDEX]
            layer.tags[..., Tags.INDEX] = torch.where(index < 0, index, index + shift.to(index)[:, None, None])
