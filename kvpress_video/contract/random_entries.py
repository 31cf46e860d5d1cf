"""Random entries of one video: complete, as in a first pass, or survivors and new frames, as in later ones."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import QUERYING, Context, Entries, Grid, Places, Queries, segment_entries
from ..compressor.rope import Rope

GRID = Grid(10, 3, 4)
HEAD_DIM = 8
ROPE = Rope(torch.tensor([1.0, 0.4, 0.1, 0.02]), torch.tensor([0, 1, 2, 0]))
WINDOW = 3
GATE = torch.randn(6, HEAD_DIM, generator=torch.Generator().manual_seed(8))
"""Weights of a router to six experts."""


def routed(keys: Tensor) -> Tensor:
    """Return the probabilities of the experts, (..., experts) fp32."""
    return (keys.float() @ GATE.to(keys.device).T).softmax(dim=-1)


def footage(
    grid: Grid = GRID, *, batch: int = 1, heads: int = 2, seed: int = 0, layer: int = 0, layers: int = 4
) -> Entries:
    """Make the entries of a video, different in each row, with captured queries, importance and a rotation.

    Args:
        grid: visual tokens of the video.
        batch: number of rows.
        heads: number of KV heads; there are twice as many query heads.
        seed: seed of all states.
        layer: index of the layer.
        layers: number of layers.

    Returns:
        Entries with keys and values (batch, heads, grid.tokens, HEAD_DIM) fp32.
    """
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(batch, heads, grid.tokens, HEAD_DIM, generator=draw) for _ in range(2))
    index = torch.tensor([grid.tokens // 2, grid.tokens - 5, grid.tokens + 9]).expand(batch, -1)
    queries = Queries(
        torch.randn(batch, 2 * heads, WINDOW, HEAD_DIM, generator=draw),
        torch.rand(batch, 2 * heads, WINDOW, generator=draw) + 4,
        index,
        index[..., None] + torch.tensor([0.0, 1.0, 2.0]),
    )
    weight = torch.randn(heads, 2, HEAD_DIM, 24, generator=draw)
    context = Context(layer=layer, layers=layers, rope=ROPE, queries=queries, output_weight=weight, router=routed)
    entries = segment_entries(keys, values, grid, context)
    places = entries.places.clone()
    places[..., Places.IMPORTANCE] = torch.rand(batch, 1, grid.tokens, generator=draw)
    return replace(entries, places=places)


def as_declared(entries: Entries, needs: Set[str]) -> Entries:
    """Return the entries as a model passes them to a method: without captured inputs that it does not declare."""
    declared = {"queries"} | needs if needs & QUERYING else needs
    withheld: dict[str, Any] = {name: None for name in ("queries", "output_weight", "router") if name not in declared}
    return replace(entries, context=replace(entries.context, **withheld))


def unanswered(needs: Set[str]) -> list[str]:
    """Return the inputs that methods may need and random entries lack, sorted."""
    context = footage().context
    return sorted(need for need in needs - {"probe", "vision_attention"} if getattr(context, need, None) is None)


def first_frames(entries: Entries, frames: int) -> Entries:
    """Return the entries of the first frames of a video."""
    part = entries.slice(0, frames * entries.grid.patches)
    return replace(part, context=replace(entries.context, grid=entries.grid._replace(frames=frames)))


def later(survivors: Entries, entries: Entries, frames: int) -> Entries:
    """Return the cache of a later pass: the survivors of the first `frames` frames, then the later frames."""
    joined = Entries.join([survivors, entries.slice(frames * entries.grid.patches, entries.grid.tokens)], dim=2)
    return replace(joined, context=entries.context)


def thinned(entries: Entries, frames: int, keep: int, seed: int = 1) -> Entries:
    """Return a later pass: `keep` random entries of the first `frames` frames per head, and all later frames."""
    draw = torch.Generator().manual_seed(seed)
    early = first_frames(entries, frames)
    chosen = torch.rand(early.keys.shape[:3], generator=draw).topk(keep, dim=-1).indices.sort(dim=-1).values
    return later(early.gather(chosen), entries, frames)
