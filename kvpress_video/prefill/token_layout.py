"""Token layout: tag every token of a pass, given the placeholder ids and the grids of the encoded videos and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..cache.forward_pass import RowState
from ..compressor.entries import Kind, Tags, grid_tags
from ..errors import UnsupportedModelError
from ..models.items import MediaItem
from .label_tokens import label_frames


@dataclass(frozen=True)
class TokenLayout:
    """Layout of a pass: tags (batch, n, Tags.WIDTH) int32, importance (batch, n) fp32, and a `RowState` per row."""

    tags: Tensor
    importance: Tensor
    rows: list[RowState]

    @property
    def visual(self) -> bool:
        """Whether any visual token is among them."""
        return any(row.held for row in self.rows)


def lay_out(
    input_ids: Tensor,
    valid: Tensor,
    placeholders: Mapping[Kind, int],
    items: Mapping[Kind, Sequence[MediaItem]],
    past: int,
    first_segment: Sequence[int],
    closes: int | None = None,
) -> TokenLayout:
    """Tag every token of a pass.

    Args:
        input_ids: (batch, n), on the host.
        valid: (batch, n) bool, False for padding, on the host.
        placeholders: placeholder token id of each kind.
        items: videos and images in the order of their placeholders, row after row. If rows were repeated after encoding
            (beams, several samples), each item stands for its repetitions.
        past: logical length before the pass.
        first_segment: per row, the index of its next segment.
        closes: tokens after a frame's last visual token that belong to its label; None to treat labels as text.

    Raises:
        UnsupportedModelError: placeholders and items do not match.
    """
    ids = input_ids.numpy()
    batch, length = ids.shape
    tags = np.full((batch, length, Tags.WIDTH), -1, dtype=np.int32)
    importance = np.full((batch, length), np.nan, dtype=np.float32)
    tags[..., Tags.INDEX] = past + np.arange(length)
    tags[..., Tags.KIND] = Kind.TEXT
    found = _placeholders(ids, valid.numpy(), placeholders, items)
    owner = {kind: _owners(ids, found[kind], items.get(kind, ()), kind) for kind in found}
    rows = []
    for row in range(batch):
        pieces = [piece for kind in found for piece in _pieces(found[kind][row], owner[kind][row], kind)]
        pieces.sort(key=lambda piece: piece.where[0])
        grids, counts, starts, labels = {}, {}, {}, {}
        for segment, piece in enumerate(_segments(pieces, ids[row]), first_segment[row]):
            grid, ordinals = piece.item.grid, piece.item.ordinals
            where = piece.where[: len(ordinals)]
            tagged = grid_tags(grid, piece.kind, segment, ordinals=torch.from_numpy(ordinals))
            tags[row, where, Tags.KIND :] = tagged[:, Tags.KIND :].numpy()
            if piece.item.importance is not None:
                importance[row, where] = piece.item.importance.float().cpu().numpy()[ordinals]
            grids[segment], counts[segment] = grid, len(ordinals)
            if where[-1] - where[0] == len(where) - 1:
                starts[segment] = int(valid[row, : where[0]].sum())
            if closes is not None and piece.kind is Kind.VIDEO:
                label = label_frames(ids[row], where, ordinals // grid.patches, closes)
                mine = label >= 0
                tags[row, mine, Tags.KIND : Tags.ROW] = [Kind.LABEL, segment, 0]
                tags[row, mine, Tags.FRAME] = label[mine]
                labels[segment] = label_counts(label[mine])
        padding = int((~valid[row]).sum())
        loose = bool(valid[row, :padding].any())
        rows.append(RowState(padding, counts, counts, grids, starts, *label_state(labels), loose=loose))
    tags[~valid.numpy()] = -1
    return TokenLayout(torch.from_numpy(tags), torch.from_numpy(importance), rows)


def _placeholders(
    ids: np.ndarray,
    valid: np.ndarray,
    placeholders: Mapping[Kind, int],
    items: Mapping[Kind, Sequence[MediaItem]],
) -> Mapping[Kind, np.ndarray]:
    """Find the placeholders of each kind, (batch, n) bool; a token shared by kinds belongs to the one with items.

    Raises:
        UnsupportedModelError: items have no placeholder in the prompt, share it with items of another kind, or it is
            hidden by the attention mask.
    """
    given = {kind: mine for kind, mine in items.items() if mine}
    found = {kind: ids == token for kind, token in placeholders.items()}
    for kind, mine in given.items():
        if kind not in found or not found[kind].any():
            token = f"token {placeholders[kind]}" if kind in placeholders else "no token"
            raise UnsupportedModelError(
                f"The vision tower encoded {sum(item.tokens for item in mine)} {kind.name.lower()} tokens, but the "
                f"prompt holds no placeholder for them ({token}): pass pixels and prompt of the same images or videos "
                "in one call, through the model's own processor."
            )
        if hidden := int((found[kind] & ~valid).sum()):
            raise UnsupportedModelError(
                f"attention_mask hides {hidden} {kind.name.lower()} placeholder tokens: pass the processor's own mask, "
                "and leave out images and videos that are not to be seen."
            )
    shared = {kind: [other for other in given if placeholders[other] == placeholders[kind]] for kind in found}
    for kind, others in shared.items():
        if len(others) > 1:
            raise UnsupportedModelError(
                f"Images and videos have the same placeholder tokens ({placeholders[kind]}), so that those of a prompt "
                "with both cannot be told apart: pass the frames as images, or images and videos in separate prompts."
            )
    return {kind: where for kind, where in found.items() if shared[kind] in ([], [kind])}


def label_counts(frames: np.ndarray) -> dict[int, int]:
    """Count the label tokens of each frame, given the frame of each token, (n,)."""
    return dict(zip(*(part.tolist() for part in np.unique(frames, return_counts=True)), strict=True))


def label_state(labels: Mapping[int, Mapping[int, int]]) -> tuple[Mapping[int, Mapping[int, int]], Mapping[int, int]]:
    """Return the labels of each segment of a pass that has any, and their number of tokens."""
    found = {segment: frames for segment, frames in labels.items() if frames}
    return found, {segment: sum(frames.values()) for segment, frames in found.items()}


@dataclass(frozen=True)
class _Piece:
    kind: Kind
    item: MediaItem
    where: np.ndarray


def with_shown(
    items: Mapping[Kind, Sequence[MediaItem]], shown: Mapping[Kind, Tensor]
) -> Mapping[Kind, Sequence[MediaItem]]:
    """Add to items which of their visual tokens are in the prompt.

    Args:
        items: the encoded items.
        shown: per kind, which visual tokens of all its items are in the prompt, (tokens,) bool; all for a missing kind.

    Raises:
        UnsupportedModelError: the number of tokens differs.
    """
    return {kind: _with_shown(mine, shown.get(kind), kind) for kind, mine in items.items()}


def _with_shown(items: Sequence[MediaItem], shown: Tensor | None, kind: Kind) -> Sequence[MediaItem]:
    if shown is None or bool(shown.all()):
        return items
    sizes = [item.grid.tokens for item in items]
    if len(shown) != sum(sizes):
        raise UnsupportedModelError(
            f"The prompt's mask of {kind.name.lower()} tokens is for {len(shown)} of them and the vision tower made "
            f"{sum(sizes)}: generate one sequence per row (no beams, num_return_sequences=1), or let the processor "
            "leave no tokens out (use_token_compression=False)."
        )
    parts = shown.cpu().split(sizes)
    if not all(bool(part.any()) for part in parts):
        raise UnsupportedModelError(f"The prompt's mask leaves no token of one {kind.name.lower()}: leave that out.")
    return [replace(item, shown=part) for item, part in zip(items, parts, strict=True)]


def _owners(ids: np.ndarray, found: np.ndarray, items: Sequence[MediaItem], kind: Kind) -> list[list[MediaItem]]:
    """Return the items of each row, given its token ids and their placeholder mask, (batch, n)."""
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
    if repeats > 1 and not (ids.reshape(-1, repeats, ids.shape[1]) == ids[::repeats, None]).all():
        raise UnsupportedModelError(
            f"The vision tower was given {given} {kind.name.lower()} tokens for {wanted} placeholder tokens, in rows "
            "that differ: pass the pixels of every row."
        )
    owners: list[list[MediaItem]] = []
    queue = list(items)
    for row in range(0, len(found), repeats):
        left, mine = int(found[row].sum()), []
        while left > 0:
            item = queue.pop(0)
            mine.append(item)
            left -= item.tokens
        if left < 0:
            raise UnsupportedModelError(
                f"The tokens of one {kind.name.lower()} stand in two rows of the batch: pass one row at a time."
            )
        owners += [mine] * repeats
    return owners


def _pieces(found: np.ndarray, items: Sequence[MediaItem], kind: Kind) -> list[_Piece]:
    where = np.flatnonzero(found)
    ends = np.cumsum([item.tokens for item in items])
    return [_Piece(kind, item, where[end - item.tokens : end]) for item, end in zip(items, ends, strict=True)]


def _segments(pieces: Sequence[_Piece], ids: np.ndarray) -> list[_Piece]:
    """Return the videos and images of a row (n,), with images that are frames of a video joined."""
    videos: list[list[_Piece]] = []
    spans: list[range] = []
    for piece in pieces:
        span, label = range(int(piece.where[0]), int(piece.where[-1]) + 1), piece.item.label
        before = videos[-1][-1].item if videos else None
        alike = before is not None and (before.grid, before.label) == (piece.item.grid, label)
        if label is not None and alike and label.continues(ids, spans, span):
            videos[-1].append(piece)
            spans.append(span)
        else:
            videos.append([piece])
            spans = [span]
    return [_video(frames) if len(frames) > 1 else frames[0] for frames in videos]


def _video(frames: Sequence[_Piece]) -> _Piece:
    item = as_video([frame.item for frame in frames])
    return _Piece(Kind.VIDEO, item, np.concatenate([frame.where for frame in frames]))


def as_video(items: Sequence[MediaItem]) -> MediaItem:
    """Join images of the same size into the video whose frames they are; a single item is unchanged."""
    if len(items) == 1:
        return items[0]
    known = [item.importance for item in items if item.importance is not None]
    importance = torch.cat(known) if len(known) == len(items) else None
    return MediaItem(items[0].grid._replace(frames=len(items)), importance=importance)
