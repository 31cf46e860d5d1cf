"""The tokens of pushed frames: what opens each, its patches, and what closes it, one frame after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..compressor.entries import Grid, Kind, Tags, grid_tags


class LabelIds(NamedTuple):
    """Token ids of one frame's label: before its patches, and after them."""

    opens: Sequence[int]
    closes: Sequence[int]


@dataclass(frozen=True)
class FrameTokens:
    """Tokens of consecutive frames.

    Attributes:
        grid: visual tokens of the frames.
        labels: of each frame; of no tokens in families that write none.
    """

    grid: Grid
    labels: Sequence[LabelIds]

    @property
    def ids(self) -> list[int]:
        """Token ids of all labels, in order."""
        return [token for label in self.labels for part in label for token in part]

    @cached_property
    def frames(self) -> Tensor:
        """Frame of each token, (n,) int64, from 0."""
        counts = [len(label.opens) + self.grid.patches + len(label.closes) for label in self.labels]
        return torch.arange(self.grid.frames).repeat_interleave(torch.tensor(counts))

    @cached_property
    def visual(self) -> Tensor:
        """Which tokens are patches, (n,) bool."""
        counts = [(len(label.opens), self.grid.patches, len(label.closes)) for label in self.labels]
        return torch.tensor([False, True, False]).repeat(len(counts)).repeat_interleave(torch.tensor(counts).flatten())

    def embedded(self, features: Tensor, labels: Tensor) -> Tensor:
        """Put patches (tokens, d) and label tokens (labels, d) into their order, (n, d)."""
        visual = self.visual.to(features.device)
        whole = features.new_empty(len(visual), features.shape[-1])
        whole[visual], whole[~visual] = features, labels.to(whole)
        return whole

    def counted(self, start: int, spatial: bool) -> tuple[Tensor, int]:
        """Count positions from `start` on, as stock models with labels do: a label takes one a token, a frame as many
        as it has rows or columns (M-RoPE), or patches.

        Returns:
            (t, h, w) of each token, (n, 3) fp32, and the first position after them.
        """
        grid, parts, place = self.grid, [], start
        patch = torch.arange(grid.patches)
        row, column = patch // grid.columns, patch % grid.columns
        offsets = torch.stack([torch.zeros_like(patch), row, column] if spatial else [patch] * 3, dim=-1)
        step = max(grid.rows, grid.columns) if spatial else grid.patches
        for opens, closes in self.labels:
            parts += [_line(place, len(opens)), place + len(opens) + offsets]
            place += len(opens) + step
            parts.append(_line(place, len(closes)))
            place += len(closes)
        return torch.cat(parts).float(), place

    def tags(self, index: int, segment: int, first_frame: int, labelled: bool) -> Tensor:
        """Tag the tokens, (n, Tags.WIDTH) int32.

        Args:
            index: original index of the first.
            segment: of the frames.
            first_frame: frames of the segment before them.
            labelled: whether the text is their label; other text otherwise.
        """
        visual, frame = self.visual, (first_frame + self.frames).int()
        tags = torch.full((len(visual), Tags.WIDTH), -1, dtype=torch.int32)
        tags[:, Tags.INDEX] = index + torch.arange(len(visual))
        tags[~visual, Tags.KIND] = Kind.LABEL if labelled else Kind.TEXT
        if labelled:
            tags[~visual, Tags.SEGMENT] = segment
            tags[~visual, Tags.FRAME] = frame[~visual]
        tags[visual, Tags.KIND :] = grid_tags(self.grid, Kind.VIDEO, segment, first_frame)[:, Tags.KIND :]
        return tags

    def label_counts(self, first_frame: int) -> dict[int, int]:
        """Count the label tokens of each frame that has any."""
        counts = (len(label.opens) + len(label.closes) for label in self.labels)
        return {first_frame + number: count for number, count in enumerate(counts) if count}


def _line(start: int, length: int) -> Tensor:
    return (start + torch.arange(length))[:, None].expand(-1, 3)
