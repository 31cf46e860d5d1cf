"""Inputs of the text model for a stream's text or frames: embeddings, layout and positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache.forward_pass import RowState, text_tags
from ..compressor.entries import Tags, is_visual
from ..models.base import Adapter
from ..models.devices import device_of
from ..prefill.token_layout import TokenLayout
from .frame_tokens import FrameTokens


class Feeding(NamedTuple):
    """One call of the text model.

    Attributes:
        embeddings: (n, hidden).
        layout: layout of these tokens; its row contains the increments of positions.
        positions: (t, h, w) of each token, (n, 3) fp32.
        probes: number of probes, the last tokens, which are not kept.
        more: further arguments of the text model.
    """

    embeddings: Tensor
    layout: TokenLayout
    positions: Tensor
    probes: int
    more: Mapping[str, Any]


class EncodedFrames(NamedTuple):
    """Frames encoded by the vision tower.

    Attributes:
        tokens: tokens of the frames.
        embeddings: embeddings of the tokens, (n, hidden).
        aligned: deepstack features of the visual tokens, (patches, levels·d); None if the model has none.
        importance: importance of each visual token, (patches,); None if it was not measured.
        first: number of frames before them.
    """

    tokens: FrameTokens
    embeddings: Tensor
    aligned: Tensor | None
    importance: Tensor | None
    first: int


@dataclass(frozen=True)
class FrameFeeder:
    """Builds the calls that feed the frames of a stream, after the text that opens them and followed by probes.

    Attributes:
        adapter: adapter of the model.
        probes: token ids of probes after the frames; empty unless the method reads attention.
        repeats: whether the frames are repeated after the probes.
        labelled: whether the text between patches is a label, or else ordinary text.
    """

    adapter: Adapter
    probes: Sequence[int]
    repeats: bool
    labelled: bool

    def asking(self, positions: int) -> int:
        """Return the number of positions that probes and repeated frames take after frames of `positions`."""
        return len(self.probes) + self.repeats * positions

    def feeding(
        self, frames: EncodedFrames, before: Sequence[int], index: int, span: tuple[int, int], shown: Tensor
    ) -> Feeding:
        """Return the call that feeds some frames.

        Args:
            frames: frames to feed.
            before: token ids of the text that opens them.
            index: token index of the first token.
            span: position of the first token, and the first position after the frames.
            shown: (t, h, w) of each token of the frames, (n, 3) fp32.
        """
        tokens, (start, end), probes = frames.tokens, span, len(self.probes)
        again = len(shown) if self.repeats else 0
        repeated = (shown - shown.amin() + end + probes)[:again]
        opens, asks = (embedded(self.adapter, ids) for ids in (before, self.probes))
        layout = tokens.layout(
            index, (len(before), probes), frames.first, self.labelled, frames.importance, self.repeats
        )
        layout.rows[0] = replace(layout.rows[0], following=end - start)
        return Feeding(
            torch.cat([opens, frames.embeddings, asks, frames.embeddings[:again]]),
            layout,
            torch.cat([_text_positions(start, len(before)), shown, _text_positions(end, probes), repeated]),
            probes + again,
            self._aligned(frames.aligned, layout),
        )

    def _aligned(self, aligned: Tensor | None, layout: TokenLayout) -> Mapping[str, Any]:
        """Return the arguments that carry deepstack features."""
        if aligned is None:
            return {}
        both = torch.cat([aligned, aligned]) if self.repeats else aligned
        return self.adapter.aligned_inputs(both, is_visual(layout.tags[..., Tags.KIND]).to(both.device))


def text_feeding(embeddings: Tensor, index: int, start: int) -> Feeding:
    """Return the call that feeds text.

    Args:
        embeddings: (n, hidden).
        index: token index of the first token.
        start: its position.
    """
    tags = text_tags(index + torch.arange(len(embeddings))[None])
    row = RowState(following=len(embeddings))
    layout = TokenLayout(tags, torch.full(tags.shape[:2], torch.nan), [row])
    return Feeding(embeddings, layout, _text_positions(start, len(embeddings)), 0, {})


def embedded(adapter: Adapter, ids: Sequence[int]) -> Tensor:
    """Return the embeddings of token ids, (n, hidden)."""
    ids_on_device = torch.tensor(list(ids), dtype=torch.long, device=device_of(adapter.inner))
    found: Tensor = adapter.inner.get_input_embeddings()(ids_on_device)
    return found


def _text_positions(start: int, length: int) -> Tensor:
    return (start + torch.arange(length, dtype=torch.float32))[:, None].expand(-1, 3)
