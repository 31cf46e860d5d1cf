"""Retrieve archived frames for a question, in place of the same number of entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..compressor.base import Compressor, top
from ..compressor.entries import Context, Entries, is_visual
from ..errors import KVPressVideoError, MethodError
from .archive import FrameArchive
from .exchange import exchange_entries
from .forward_pass import RowState
from .layer import CompressedLayer


@contextmanager
def recalled(
    layers: Sequence[CompressedLayer], row: int, archive: FrameArchive, method: Compressor, queries: Sequence[Tensor]
) -> Iterator[None]:
    """Context manager that holds retrieved frames, and restores the previous entries afterwards, keeping what was
    appended meanwhile.

    The arguments are those of `bring_back`.
    """
    before: list[dict[int, Entries]] = []
    try:
        bring_back(layers, row, archive, method, queries, before)
        yield
    finally:
        for layer, parts in zip(layers, before, strict=False):
            for segment, held in parts.items():
                exchange_entries(layer, row, visual_entries(layer, row, segment, Context())[1], held)


def bring_back(
    layers: Sequence[CompressedLayer],
    row: int,
    archive: FrameArchive,
    method: Compressor,
    queries: Sequence[Tensor],
    before: list[dict[int, Entries]] | None = None,
) -> None:
    """Retrieve archived frames in place of other entries.

    From each segment, the frames with the highest scores are retrieved, as many whole ones as fit into the method's
    share of the held entries. The best of the held entries stay, so that their number does not change.

    Args:
        layers: compressed layers of the cache.
        row: row of the batch.
        archive: all frames of the row.
        method: scores frames and entries.
        queries: mean un-rotated query of the question in each layer, (attention heads, head_dim) fp32.
        before: receives the layers' previous entries, on the host, by segment.
    """
    for number, layer in enumerate(layers):
        parts: dict[int, Entries] = {}
        if before is not None:
            before.append(parts)
        for segment in sorted(layer.rows[row].held):
            held, slots = visual_entries(layer, row, segment, Context(layer=number, layers=len(layers)))
            new = _recalled(number, held, archive, segment, method, queries[number])
            if new is not None:
                if before is not None:
                    parts[segment] = _on_host(held)
                exchange_entries(layer, row, slots, new)


def visual_entries(layer: CompressedLayer, row: int, segment: int, context: Context) -> tuple[Entries, Tensor]:
    """Return the visual entries of one segment of a row with their slots, (1, kv_heads, n) int64."""
    state: RowState = layer.rows[row]
    entries = layer.entries(context).rows([row])
    mine = is_visual(entries.kind) & (entries.segment == segment)
    slots = mine.int().argsort(dim=-1, descending=True, stable=True)[..., : state.held[segment]]
    held = entries.gather(slots)
    return replace(held, context=replace(context, grid=state.grids[segment])), slots


def _recalled(
    layer: int, held: Entries, archive: FrameArchive, segment: int, method: Compressor, queries: Tensor
) -> Entries | None:
    """Return the same number of entries of a layer's segment for a question; None if they do not change."""
    numbers = archive.of(segment)
    if not numbers:
        return None
    scores = _frame_scores(method, queries, archive.means(layer, numbers).to(queries.device))
    room, chosen = int(method.recall_share * len(held)), []
    for place in scores.argsort(descending=True, stable=True).tolist():
        start, stop = archive.frames[numbers[place]][2:]
        if stop - start > room:
            break
        room -= stop - start
        chosen.append(numbers[place])
    if not chosen:
        return None
    back = archive.entries(layer, sorted(chosen), held)
    frames = torch.tensor([archive.frames[number].frame for number in chosen], device=held.keys.device)
    again = torch.isin(held.frame, frames)
    stays = top(method.checked_scores(held).masked_fill(again, -torch.inf), len(held) - len(back))
    return Entries.join([held.gather(stays), back], dim=2).in_order()


def _frame_scores(method: Compressor, queries: Tensor, keys: Tensor) -> Tensor:
    """Return a method's scores of archived frames, validated."""
    call = f"{type(method).__name__}.frame_scores()"
    try:
        scores: object = method.frame_scores(queries, keys)
    except KVPressVideoError:
        raise
    except Exception as error:
        raise MethodError(f"{call}: {type(error).__name__}: {error}") from error
    if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.shape != keys.shape[:1]:
        found = f"shape {tuple(scores.shape)}, {scores.dtype}" if isinstance(scores, Tensor) else type(scores).__name__
        raise MethodError(f"{call} returned {found}: return a floating-point score for each of {len(keys)} frames.")
    if bool(scores.isnan().any()):
        raise MethodError(f"{call} returned NaN, which has no rank: guard divisions by zero.")
    return scores


def _on_host(entries: Entries) -> Entries:
    return Entries(entries.keys.cpu(), entries.values.cpu(), entries.tags.cpu(), entries.places.cpu())
