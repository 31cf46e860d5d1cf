"""Random entries of one video, as a method sees them: at first all of them, later survivors and new frames."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kvpress_video.compressor.entries import Context, Entries, Grid, Places, Queries, segment_entries
from kvpress_video.compressor.rope import Rope

GRID = Grid(10, 3, 4)
HEAD_DIM = 8
ROPE = Rope(torch.tensor([1.0, 0.4, 0.1, 0.02]), torch.tensor([0, 1, 2, 0]))
WINDOW = 3
GATE = torch.randn(6, HEAD_DIM, generator=torch.Generator().manual_seed(8))
"""Weights of a router to six experts."""


def routed(keys: Tensor) -> Tensor:
    """The probabilities of the experts."""
    return (keys.float() @ GATE.to(keys.device).T).softmax(dim=-1)


def footage(
    grid: Grid = GRID, *, batch: int = 1, heads: int = 2, seed: int = 0, layer: int = 0, layers: int = 4
) -> Entries:
    """Every entry of a video; each row shows another one."""
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(batch, heads, grid.tokens, HEAD_DIM, generator=draw) for _ in range(2))
    index = torch.tensor([grid.tokens // 2, grid.tokens - 5, grid.tokens + 9]).expand(batch, -1)
    queries = Queries(
        torch.randn(batch, 2 * heads, WINDOW, HEAD_DIM, generator=draw),
        torch.rand(batch, 2 * heads, WINDOW, generator=draw) + 4,
        index,
    )
    entries = segment_entries(
        keys, values, grid, Context(layer=layer, layers=layers, rope=ROPE, queries=queries, router=routed)
    )
    places = entries.places.clone()
    places[..., Places.IMPORTANCE] = torch.rand(batch, 1, grid.tokens, generator=draw)
    return replace(entries, places=places)


def first_frames(entries: Entries, frames: int) -> Entries:
    """The same video when only its first frames had been seen."""
    part = entries.slice(0, frames * entries.grid.patches)
    return replace(part, context=replace(entries.context, grid=entries.grid._replace(frames=frames)))


def later(survivors: Entries, entries: Entries, frames: int) -> Entries:
    """What is cached when, after `frames` frames, the others come in on top of the survivors."""
    joined = Entries.join([survivors, entries.slice(frames * entries.grid.patches, entries.grid.tokens)], dim=2)
    return replace(joined, context=entries.context)


def thinned(entries: Entries, frames: int, keep: int, seed: int = 1) -> Entries:
    """A later pass after an earlier one that kept, in each head, another random `keep` of the first `frames` frames."""
    draw = torch.Generator().manual_seed(seed)
    early = first_frames(entries, frames)
    chosen = torch.rand(early.keys.shape[:3], generator=draw).topk(keep, dim=-1).indices.sort(dim=-1).values
    return later(early.gather(chosen), entries, frames)
