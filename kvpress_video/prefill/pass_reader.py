"""Parse a call of the text model into a pass, and rewrite its arguments if positions or lengths change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..attention.masks import real_columns, without_masks
from ..cache.allocation import Shares
from ..cache.compaction import compact
from ..cache.forward_pass import DecodedMetadata, ForwardPass, RowState, text_tags
from ..cache.layer import CompressedLayer
from ..compressor.entries import Kind, Places, Tags, at_target, is_visual
from ..compressor.rope import Rope
from ..errors import MissingInputError, UnsupportedModelError
from ..models.base import Adapter
from .token_layout import TokenLayout, lay_out, with_shown
from .vision_tower import Items


@dataclass(frozen=True)
class ModelInputs:
    """Inputs of a call of the model, before they become embeddings.

    Attributes:
        ids: token ids (batch, n), None if the call had none.
        types: token type ids, if the call had them.
        shown: which visual tokens are in the prompt, by kind, see `Adapter.shown`.
        items: videos and images that the call encodes.
    """

    ids: Tensor | None = None
    types: Tensor | None = None
    shown: Mapping[Kind, Tensor] = field(default_factory=dict)
    items: Items = field(default_factory=dict)


@dataclass(frozen=True)
class Arrival:
    """A pass outside of the model's own forward, whose layout is already known.

    Attributes:
        layout: its tokens; the rows contain the increments of positions.
        probes: number of probe tokens at its end.
    """

    layout: TokenLayout
    probes: int = 0


class PassReader:
    """Turns the text model's arguments into a `ForwardPass`.

    With a `rope` (compact positions) every place also carries a present and a target position.
    """

    def __init__(self, adapter: Adapter, attentive: bool, rope: Rope | None, labelled: bool = True) -> None:
        """Make a reader for one model.

        Args:
            adapter: adapter of the model.
            attentive: whether every visual token needs an importance.
            rope: rotation of the keys under compact positions, else None.
            labelled: whether labels are distinguished from other text.
        """
        self._adapter = adapter
        self._attentive = attentive
        self._rope = rope
        self._closes = adapter.label_closes if labelled else None

    def read(
        self,
        kwargs: dict[str, Any],
        layer: CompressedLayer,
        rows: Sequence[RowState],
        given: ModelInputs | Arrival,
    ) -> ForwardPass:
        """Read the pass of a call of the text model, uncompressed.

        Args:
            kwargs: the text model's arguments; compact positions are moved by the rows' shifts.
            layer: the first layer, before the pass.
            rows: its rows.
            given: arguments of the model's call, or the layout of a pass outside of one.

        Raises:
            MissingInputError, UnsupportedModelError: visual tokens cannot be distinguished from text.
        """
        batch, length = kwargs["inputs_embeds"].shape[:2]
        counting = bool(rows) and rows[0].following is not None
        if length == 1 and self._rope is None and not counting:
            positions = kwargs.get("position_ids")
            if positions is not None and positions.shape[-2] == batch:
                metadata = DecodedMetadata(layer.logical, positions)
                return ForwardPass(metadata, 1, 1, [RowState()] * batch)
        if isinstance(given, Arrival):
            layout, probes = given.layout, given.probes
        else:
            layout, probes = self._layout(kwargs, layer.logical, rows, given), 0
            if counting:
                layout = _continued(layout, rows, kwargs)
        position = self._positions(kwargs, layer.logical, batch, length)
        places = torch.cat([position, layout.importance.to(position)[..., None]], dim=-1)
        if self._rope is not None:
            shift = torch.tensor([row.shift for row in rows], device=position.device)[:, None]
            moved = position - shift[..., None]
            places = torch.cat([places, moved, moved], dim=-1)
            if any(row.shift for row in rows):
                own = kwargs.get("position_ids")
                kwargs["position_ids"] = (position[..., 0].long() if own is None else own) - shift
        options = {"compress": layout.visual, "stock_mask": not counting, "probes": probes}
        return ForwardPass.of(layout.tags.to(position.device), places, length - probes, layout.rows, **options)

    def place(
        self,
        whole: ForwardPass,
        rows: Sequence[RowState],
        after: Sequence[RowState],
        shares: Shares,
    ) -> ForwardPass:
        """Add compact target positions to a pass, and the resulting shift to its rows.

        Args:
            whole: the pass.
            rows, after: row states before and after it.
            shares: by row, entries to keep of each segment.
        """
        ratios = [
            {segment: share[segment].visual / row.seen[segment] for segment in new.held}
            for share, row, new in zip(shares, after, whole.rows, strict=True)
        ]
        spatial = self._rope is not None and bool(self._rope.axes.any())
        shifts = [row.shift for row in rows]
        target, later = compact(whole.tags.cpu(), whole.places[..., Places.ORIGINAL].cpu(), ratios, shifts, spatial)
        places = torch.cat([whole.places[..., : Places.PRESENT.stop], target.to(whole.places)], dim=-1)
        moved = [replace(row, shift=more) for row, more in zip(whole.rows, later, strict=True)]
        return whole.with_metadata(whole.tags, places, rows=moved, moves=True)

    def arrived(self, forward_pass: ForwardPass) -> ForwardPass:
        """Place the tokens of a pass at their target positions before their keys are rotated."""
        if self._rope is None:
            return forward_pass
        return forward_pass.with_metadata(forward_pass.tags, at_target(forward_pass.places), moves=False)

    def rewrite(self, kwargs: dict[str, Any], forward_pass: ForwardPass) -> None:
        """Adapt position ids and masks to a pass whose tokens differ from the stock ones."""
        compacted = forward_pass.places.shape[-1] == Places.COMPACT_WIDTH
        position = forward_pass.places[..., Places.PRESENT if compacted else Places.ORIGINAL]
        whole = bool((position == position.round()).all())
        axes = (position.long() if whole else position).permute(2, 0, 1)
        kwargs["position_ids"] = axes if has_axes(kwargs) else axes[0]
        kwargs["attention_mask"] = without_masks(kwargs.get("attention_mask"))
        kwargs.pop("cache_position", None)

    def _positions(self, kwargs: Mapping[str, Any], past: int, batch: int, length: int) -> Tensor:
        """Return the original (t, h, w) of each token of the pass, (batch, n, 3) fp32."""
        given = kwargs.get("position_ids")
        if given is None:
            given = past + torch.arange(length, device=kwargs["inputs_embeds"].device)[None]
        axes = given[-3:] if given.ndim == 3 else given[None]
        return axes.expand(3, batch, length).permute(1, 2, 0).float()

    def _layout(
        self, kwargs: Mapping[str, Any], past: int, rows: Sequence[RowState], inputs: ModelInputs
    ) -> TokenLayout:
        batch, length = kwargs["inputs_embeds"].shape[:2]
        device = kwargs["inputs_embeds"].device
        if length == 1:
            nothing = torch.full((batch, 1), torch.nan, device=device)
            return TokenLayout(text_tags(torch.full((batch, 1), past, device=device)), nothing, [RowState()] * batch)
        ids = inputs.ids
        if ids is None:
            raise UnsupportedModelError("Pass input_ids: without them visual tokens cannot be told from text.")
        valid = real_columns(kwargs.get("attention_mask"), ids)
        first = [max(row.seen, default=-1) + 1 for row in rows]
        items = with_shown(inputs.items, inputs.shown)
        layout = lay_out(ids.cpu(), valid.cpu(), self._adapter.placeholders, items, past, first, self._closes)
        if self._adapter.image_blocks and layout.visual and inputs.types is None:
            raise MissingInputError(
                f"{self._adapter.config.model_type!r} attends bidirectionally within an image only with "
                "token_type_ids: pass "
                "what its processor returns, token_type_ids included."
            )
        if self._attentive and bool(layout.importance[is_visual(layout.tags[..., Tags.KIND])].isnan().any()):
            raise MissingInputError(
                f"The vision tower of {self._adapter.config.model_type!r} gives no importance for an input of this "
                "prompt (any-resolution images have none): choose a method that does not need vision attention."
            )
        return layout


def _continued(layout: TokenLayout, rows: Sequence[RowState], kwargs: dict[str, Any]) -> TokenLayout:
    """Continue a pass of text at the positions that the rows count, and set them in the text model's arguments."""
    valid = layout.tags[..., Tags.INDEX] >= 0
    start = torch.tensor([row.following for row in rows], device=valid.device)
    position = start[:, None] + (valid.long().cumsum(dim=1) - 1).clamp(min=0)
    spatial = has_axes(kwargs)
    position = position.to(kwargs["inputs_embeds"].device)
    kwargs |= {"position_ids": position.expand(3, *position.shape) if spatial else position, "attention_mask": None}
    kwargs.pop("cache_position", None)
    counts = [1] * len(rows) if valid.shape[1] == 1 else valid.sum(dim=1).tolist()  # decoded tokens stay on the device
    counted = [replace(row, following=count) for row, count in zip(layout.rows, counts, strict=True)]
    return replace(layout, rows=counted)


def has_axes(kwargs: Mapping[str, Any]) -> bool:
    """Whether the positions in the text model's arguments have several axes."""
    given = kwargs.get("position_ids")
    return given is not None and given.ndim == 3
