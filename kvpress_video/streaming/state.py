"""A session off its model: tensors and plain facts, to copy, move to another device, or write to a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..cache.forward_pass import RowState
from ..compressor.entries import Grid
from ..models.devices import device_of
from .position_rescaling import Run
from .stream import Stream
from .timeline import Moment, Timeline

_PARTS = ("keys", "values", "tags", "places")


@dataclass(frozen=True)
class Snapshot:
    """What a session is.

    Attributes:
        tensors: by name.
        facts: what JSON can hold.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def to(self, device: torch.device | str) -> Snapshot:
        """The same on another device."""
        return Snapshot({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.facts)


def take_stream(stream: Stream) -> Snapshot:
    """A copy of what a stream holds.

    Raises:
        CacheError: a pass on it failed halfway.
    """
    layers = stream.layers
    for layer in layers:
        layer.check_whole()
    tensors = {}
    for number, layer in enumerate(layers):
        for part in _PARTS if layer.physical else ():
            copy = getattr(layer, part).clone(memory_format=torch.contiguous_format)
            tensors[f"layers.{number}.{part}"] = copy.cpu() if layer.bank_bytes else copy
    rows = [_row_facts(layer.rows[0]) for layer in layers]
    facts = {
        "logical": layers[0].logical,
        "rows": rows,
        "timeline": asdict(stream.timeline),
        "peak_bytes": stream.peak_bytes,
    }
    return Snapshot(tensors, facts)


def put_stream(stream: Stream, snapshot: Snapshot) -> None:
    """Fill an empty stream as another one was."""
    facts = snapshot.facts
    attentions = stream.adapter.attentions
    for number, (layer, row) in enumerate(zip(stream.layers, facts["rows"], strict=True)):
        device = device_of(attentions[number])
        parts = [snapshot.tensors.get(f"layers.{number}.{part}") for part in _PARTS]
        layer.restore([part.to(device) for part in parts if part is not None], facts["logical"], [_row(row)])
    stream.timeline, stream.peak_bytes = _timeline(facts["timeline"]), facts["peak_bytes"]


def _row_facts(row: RowState) -> dict[str, Any]:
    counted = {name: dict(getattr(row, name)) for name in ("held", "seen", "grids", "starts")}
    return {"padding": row.padding, **counted, "loose": row.loose, "shift": row.shift, "following": row.following}


def _row(facts: dict[str, Any]) -> RowState:
    held, seen, starts = (
        {int(segment): count for segment, count in facts[name].items()} for name in ("held", "seen", "starts")
    )
    grids = {int(segment): Grid(*grid) for segment, grid in facts["grids"].items()}
    return RowState(facts["padding"], held, seen, grids, starts, facts["loose"], facts["shift"], facts["following"])


def _timeline(facts: dict[str, Any]) -> Timeline:
    moments = {name: facts[name] and Moment(**facts[name]) for name in ("base", "last")}
    grid = None if facts["grid"] is None else Grid(*facts["grid"])
    return Timeline(facts["spatial"], grid, tuple(Run(**run) for run in facts["runs"]), **moments)
