"""Reads what a pass brings to the text model, and rewrites its arguments where positions or lengths change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.masks import real_columns, without_masks
from ..cache.compaction import compact
from ..cache.forward_pass import ForwardPass, RowState, text_tags
from ..cache.layer import CompressedLayer
from ..compressor.entries import Kind, Places, Tags, at_target
from ..compressor.rope import Rope
from ..errors import MissingInputError, UnsupportedModelError
from ..models.base import Adapter
from .token_layout import TokenLayout, lay_out, with_shown
from .vision_tower import VisionRecorder


@dataclass(frozen=True)
class Expected:
    """A pass that is made outside the model's own forward, and so has no token ids.

    Attributes:
        layout: what it brings, its rows with how far positions move on.
        probes: tokens at its end that only ask.
    """

    layout: TokenLayout
    probes: int = 0


class PassReader:
    """Turns the text model's arguments into a `ForwardPass`.

    With a `rope` (compact positions) every place also carries a present and a target position.
    """

    def __init__(self, adapter: Adapter, vision: VisionRecorder, rope: Rope | None) -> None:
        self._adapter = adapter
        self._vision = vision
        self._rope = rope
        self._ids: Tensor | None = None
        self._types: Tensor | None = None
        self._shown: Mapping[Kind, Tensor] = {}
        self._expected: Expected | None = None

    def note_ids(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Hook of the module that still sees token ids."""
        self._ids = kwargs.get("input_ids", args[0] if args else None)
        self._types = kwargs.get("token_type_ids")
        self._shown = self._adapter.shown(kwargs)

    @contextmanager
    def expecting(self, expected: Expected) -> Iterator[None]:
        """The next pass inside is known already."""
        self._expected = expected
        try:
            yield
        finally:
            self._expected = None

    def read(self, kwargs: dict[str, Any], layer: CompressedLayer, rows: Sequence[RowState]) -> ForwardPass:
        """The pass in flight, uncompressed.

        Args:
            kwargs: the text model's arguments; under compact positions, theirs move by the rows' shifts.
            layer: the first layer, before the pass.
            rows: its rows.
        """
        batch, length = kwargs["inputs_embeds"].shape[:2]
        expected, self._expected = self._expected, None
        counting = bool(rows) and rows[0].following is not None
        layout = expected.layout if expected else self._layout(kwargs, layer.logical, rows, batch, length)
        probes = expected.probes if expected else 0
        if counting and expected is None:
            layout = _continued(layout, rows, kwargs)
        position = self._positions(kwargs, layer.logical, batch, length)
        places = torch.cat([position, layout.importance.to(position)[..., None]], dim=-1)
        if self._rope is not None:
            shift = torch.tensor([row.shift for row in rows], device=position.device)[:, None]
            moved = position - shift[..., None]
            places = torch.cat([places, moved, moved], dim=-1)
            if any(row.shift for row in rows):
                given = kwargs.get("position_ids")
                kwargs["position_ids"] = (position[..., 0].long() if given is None else given) - shift
        tags = layout.tags.to(position.device)
        return ForwardPass(
            tags, places, length - probes, layout.rows, layout.visual, stock_mask=not counting, probes=probes
        )

    def place(
        self, chunk: ForwardPass, rows: Sequence[RowState], after: Sequence[RowState], shares: Sequence[Mapping]
    ) -> ForwardPass:
        """The pass with compact target positions, its rows with the shift they bring."""
        ratios = [
            {segment: share[segment] / row.seen[segment] for segment in new.held}
            for share, row, new in zip(shares, after, chunk.rows, strict=True)
        ]
        spatial = self._rope is not None and bool(self._rope.axes.any())
        shifts = [row.shift for row in rows]
        target, later = compact(chunk.tags.cpu(), chunk.places[..., Places.ORIGINAL].cpu(), ratios, shifts, spatial)
        places = torch.cat([chunk.places[..., : Places.PRESENT.stop], target.to(chunk.places)], dim=-1)
        moved = [replace(row, shift=more) for row, more in zip(chunk.rows, later, strict=True)]
        return replace(chunk, places=places, rows=moved, moves=True)

    def arrived(self, chunk: ForwardPass) -> ForwardPass:
        """The pass with its tokens at their target positions from the start, for tokens that were not embedded yet."""
        if self._rope is None:
            return chunk
        return replace(chunk, places=at_target(chunk.places), moves=False)

    def rewrite(self, kwargs: dict[str, Any], chunk: ForwardPass) -> None:
        """Fit position ids, and what depends on their number, to a pass whose tokens are no longer the stock ones."""
        compact = chunk.places.shape[-1] == Places.COMPACT_WIDTH
        position = chunk.places[..., Places.PRESENT if compact else Places.ORIGINAL]
        whole = bool((position == position.round()).all())
        axes = (position.long() if whole else position).permute(2, 0, 1)
        spatial = kwargs.get("position_ids") is not None and kwargs["position_ids"].ndim == 3
        kwargs["position_ids"] = axes if spatial else axes[0]
        kwargs["attention_mask"] = without_masks(kwargs.get("attention_mask"))
        kwargs.pop("cache_position", None)

    def _positions(self, kwargs: Mapping[str, Any], past: int, batch: int, length: int) -> Tensor:
        """Original (t, h, w) of each token of the pass, (batch, n, 3) fp32."""
        given = kwargs.get("position_ids")
        if given is None:
            given = past + torch.arange(length, device=kwargs["inputs_embeds"].device)[None]
        axes = given[-3:] if given.ndim == 3 else given[None]
        return axes.expand(3, batch, length).permute(1, 2, 0).float()

    def _layout(
        self, kwargs: Mapping[str, Any], past: int, rows: Sequence[RowState], batch: int, length: int
    ) -> TokenLayout:
        ids, self._ids = self._ids, None
        device = kwargs["inputs_embeds"].device
        if length == 1:
            nothing = torch.full((batch, 1), torch.nan, device=device)
            return TokenLayout(text_tags(torch.full((batch, 1), past, device=device)), nothing, [RowState()] * batch)
        if ids is None:
            raise UnsupportedModelError("Pass input_ids: without them visual tokens cannot be told from text.")
        valid = real_columns(kwargs.get("attention_mask"), ids)
        first = [max(row.seen, default=-1) + 1 for row in rows]
        items = with_shown(self._vision.take_items(), self._shown)
        layout = lay_out(ids.cpu(), valid.cpu(), self._adapter.placeholders, items, past, first)
        if self._adapter.image_blocks and layout.visual and self._types is None:
            raise MissingInputError(
                f"{self._adapter.config.model_type!r} reads an image both ways only where token_type_ids say so: pass "
                "what its processor returns, token_type_ids included."
            )
        if self._vision.attentive and bool(layout.importance[layout.tags[..., Tags.KIND] > Kind.TEXT].isnan().any()):
            raise MissingInputError(
                f"The vision tower of {self._adapter.config.model_type!r} gives no importance for an input of this "
                "prompt (any-resolution images have none): choose a method that does not need vision attention."
            )
        return layout


def _continued(layout: TokenLayout, rows: Sequence[RowState], kwargs: dict[str, Any]) -> TokenLayout:
    """A pass of text whose positions go on from those that the rows count; the arguments are told of them."""
    valid = layout.tags[..., Tags.INDEX] >= 0
    start = torch.tensor([row.following for row in rows], device=valid.device)
    position = start[:, None] + (valid.long().cumsum(dim=1) - 1).clamp(min=0)
    spatial = kwargs.get("position_ids") is not None and kwargs["position_ids"].ndim == 3
    position = position.to(kwargs["inputs_embeds"].device)
    kwargs |= {"position_ids": position.expand(3, *position.shape) if spatial else position, "attention_mask": None}
    kwargs.pop("cache_position", None)
    counts = [1] * len(rows) if valid.shape[1] == 1 else valid.sum(dim=1).tolist()  # what was decoded is on the device
    counted = [replace(row, following=count) for row, count in zip(layout.rows, counts, strict=True)]
    return replace(layout, rows=counted)
