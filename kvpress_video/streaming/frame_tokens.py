"""The tokens of pushed frames, in order: opening, patches and closing of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.forward_pass import RowState, text_tags
from ..compressor.entries import Grid, Kind, Tags, grid_tags
from ..prefill.token_layout import TokenLayout, label_state

VIDEO = 0
"""Segment of the frames of a stream."""


class LabelIds(NamedTuple):
    """Token ids of one frame's label: before its patches, and after them."""

    opens: Sequence[int]
    closes: Sequence[int]


@dataclass(frozen=True)
class FrameTokens:
    """Tokens of consecutive frames.

    Attributes:
        grid: visual tokens of the frames.
        labels: label of each frame, without tokens in families that write none.
        shown: whether each visual token exists, (grid.tokens,) bool; None for all.
    """

    grid: Grid
    labels: Sequence[LabelIds]
    shown: Tensor | None = None

    @property
    def ids(self) -> list[int]:
        """Token ids of all labels, in order."""
        return [token for label in self.labels for part in label for token in part]

    @cached_property
    def ordinals(self) -> Tensor:
        """Index of each visual token in the grid, row by row, (patches,) int64."""
        return torch.arange(self.grid.tokens) if self.shown is None else self.shown.cpu().nonzero().flatten()

    @cached_property
    def _counts(self) -> Tensor:
        """Tokens of each frame: before its patches, patches, after them, (frames, 3) int64."""
        patches = (self.ordinals // self.grid.patches).bincount(minlength=self.grid.frames)
        opens, closes = zip(*((len(label.opens), len(label.closes)) for label in self.labels), strict=True)
        return torch.stack([torch.tensor(opens), patches, torch.tensor(closes)], dim=1)

    @cached_property
    def frames(self) -> Tensor:
        """Frame of each token, (n,) int64, from 0."""
        return torch.arange(self.grid.frames).repeat_interleave(self._counts.sum(1))

    @cached_property
    def visual(self) -> Tensor:
        """Whether each token is a patch, (n,) bool."""
        return torch.tensor([False, True, False]).repeat(self.grid.frames).repeat_interleave(self._counts.flatten())

    def embedded(self, features: Tensor, labels: Tensor) -> Tensor:
        """Merge patches (tokens, d) and label tokens (labels, d) in sequence order, (n, d)."""
        visual = self.visual.to(features.device)
        whole = features.new_empty(len(visual), features.shape[-1])
        whole[visual], whole[~visual] = features, labels.to(whole)
        return whole

    def counted(self, start: int, spatial: bool) -> tuple[Tensor, int]:
        """Count positions from `start` on, as stock models with labels do: one per label token, and for a frame the
        number of its rows or columns (M-RoPE), or of its patches.

        Returns:
            (t, h, w) of each token, (n, 3) fp32, and the first position after them.
        """
        if not spatial:
            end = start + len(self.visual)
            return torch.arange(start, end).float()[:, None].expand(-1, 3), end
        grid, patch = self.grid, self.ordinals % self.grid.patches
        steps = self._counts.clone()
        steps[:, 1] = max(grid.rows, grid.columns)
        starts = start + torch.cat([torch.zeros(1, dtype=torch.long), steps.flatten().cumsum(0)])
        part = torch.arange(3 * grid.frames).repeat_interleave(self._counts.flatten())
        first = self._counts.flatten().cumsum(0) - self._counts.flatten()
        positions = (starts[part] + torch.arange(len(part)) - first[part])[:, None].repeat(1, 3)
        places = torch.stack([torch.zeros_like(patch), patch // grid.columns, patch % grid.columns], dim=1)
        positions[self.visual] = starts[part][self.visual, None] + places
        return positions.float(), int(starts[-1])

    def layout(
        self,
        index: int,
        around: tuple[int, int],
        first_frame: int,
        labelled: bool,
        importance: Tensor | None,
        repeats: bool,
    ) -> TokenLayout:
        """Lay out one part of a prompt: text, these tokens, and text again.

        Args:
            index: original index of the part's first token.
            around: text tokens before and after the frames.
            first_frame: number of frames before them.
            labelled: whether the text between patches is a label, or else ordinary text.
            importance: importance of each visual token, (patches,).
            repeats: whether these tokens are repeated at the end.
        """
        (before, after), visual, shown = around, self.visual, len(self.ordinals)
        again = len(visual) if repeats else 0
        tags = text_tags(index + torch.arange(before + len(visual) + after + again)[None])
        frames = slice(before, before + len(visual))
        tags[0, frames] = self._tags(index + before, first_frame, labelled)
        tags[0, before + len(visual) + after :, Tags.KIND :] = tags[0, frames][:again, Tags.KIND :]
        found = torch.full(tags.shape[:2], torch.nan)
        if importance is not None:
            found[0, frames][visual] = importance.float().cpu()[self.ordinals]
        labels, labels_seen = label_state({VIDEO: self._label_counts(first_frame)} if labelled else {})
        row = RowState(
            held={VIDEO: shown},
            seen={VIDEO: shown},
            grids={VIDEO: self.grid._replace(frames=first_frame + self.grid.frames)},
            starts={VIDEO: before} if bool(visual.all()) else {},
            labels=labels,
            labels_seen=labels_seen,
        )
        return TokenLayout(tags, found, [row])

    def _tags(self, index: int, first_frame: int, labelled: bool) -> Tensor:
        """Tag the tokens, (n, Tags.WIDTH) int32."""
        visual, frame = self.visual, (first_frame + self.frames).int()
        tags = torch.full((len(visual), Tags.WIDTH), -1, dtype=torch.int32)
        tags[:, Tags.INDEX] = index + torch.arange(len(visual))
        tags[~visual, Tags.KIND] = Kind.LABEL if labelled else Kind.TEXT
        if labelled:
            tags[~visual, Tags.SEGMENT] = VIDEO
            tags[~visual, Tags.FRAME] = frame[~visual]
        tagged = grid_tags(self.grid, Kind.VIDEO, VIDEO, first_frame, self.ordinals)
        tags[visual, Tags.KIND :] = tagged[:, Tags.KIND :]
        return tags

    def _label_counts(self, first_frame: int) -> dict[int, int]:
        """Count the label tokens of each frame that has any."""
        counts = (len(label.opens) + len(label.closes) for label in self.labels)
        return {first_frame + number: count for number, count in enumerate(counts) if count}
