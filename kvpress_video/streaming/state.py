"""Snapshots: a session detached from its model, to copy, move to another device, or write to a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.forward_pass import RowState
from ..cache.uncompressed import put_states, states
from ..compressor.entries import Tags
from ..errors import CacheError
from ..models.devices import device_of
from .config import SessionConfig
from .conversation import ConversationState
from .frame_queue import QueueState
from .stream import Stream
from .timeline import Timeline

PARTS = ("keys", "values", "tags", "places")


@dataclass(frozen=True)
class StreamState:
    """Host-side state of a stream.

    Attributes:
        logical: tokens seen.
        rows: one `RowState` per layer.
        timeline: positions of the frames.
        peak_bytes: peak bytes of the cache.
        evicted_text: evicted text entries per layer and KV head.
    """

    logical: int
    rows: tuple[RowState, ...]
    timeline: Timeline
    peak_bytes: int
    evicted_text: int = 0


@dataclass(frozen=True)
class SessionState:
    """Host-side state of a session: everything except the tensors."""

    config: SessionConfig
    stream: StreamState
    conversation: ConversationState
    queue: QueueState


@dataclass(frozen=True)
class Snapshot:
    """A whole session.

    Attributes:
        tensors: `layers.{i}.{part}` for each part of `PARTS` and compressed layer, `others.{i}.{part}` of the other
            layers of the cache, `newest.{part}` of frames that may be re-encoded, `waiting.frames` and `waiting.times`.
        state: everything else.
    """

    tensors: dict[str, Tensor]
    state: SessionState

    def to(self, device: torch.device | str) -> Snapshot:
        """Move the tensors to a device."""
        return Snapshot({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.state)


def take_stream(stream: Stream) -> tuple[StreamState, dict[str, Tensor]]:
    """Copy a stream's state and tensors; those of offloaded layers go to the CPU.

    Raises:
        CacheError: a pass failed halfway, or the stream has an archive.
    """
    layers = stream.layers
    stream.check_whole()
    if stream.archive.bytes:
        raise CacheError(
            "The session has an archive of its frames on the host, which copies and files do not include: continue "
            "with this session, or choose a method without an archive."
        )
    tensors = {}
    for number, layer in enumerate(layers):
        for part in PARTS if layer.physical else ():
            copy = getattr(layer, part).clone(memory_format=torch.contiguous_format)
            tensors[f"layers.{number}.{part}"] = copy.cpu() if layer.bank_bytes else copy
    tensors |= {f"others.{name}": state.clone() for name, state in states(stream.cache).items()}
    tensors |= stream.newest.tensors()
    rows = tuple(layer.rows[0] for layer in layers)
    return StreamState(layers[0].logical, rows, stream.timeline, stream.peak_bytes, stream.evicted_text), tensors


def put_stream(stream: Stream, state: StreamState, tensors: dict[str, Tensor]) -> None:
    """Fill an empty stream with the state and the tensors of another.

    Raises:
        CacheError: its heads held different numbers of entries, which this stream's method does not support.
    """
    attentions, text = stream.adapter.attentions, stream.adapter.text_model.layers
    for number, (layer, row) in enumerate(zip(stream.layers, state.rows, strict=True)):
        device = device_of(attentions[number])
        parts = [tensors[name].to(device) for part in PARTS if (name := f"layers.{number}.{part}") in tensors]
        if parts and not layer.uneven and bool((parts[2][..., Tags.INDEX] < 0).any()):
            raise CacheError("The session's heads hold different numbers of entries: continue with such a method.")
        layer.restore(parts, state.logical, [row])
    others = {}
    for name in stream.adapter.uncompressed_states(state.logical) if state.logical else ():
        others[name] = tensors[f"others.{name}"].to(device_of(text[int(name.partition(".")[0])]))
    put_states(stream.cache, others, state.logical)
    stream.newest.restore(tensors, device_of(stream.adapter.inner))
    stream.timeline, stream.peak_bytes = state.timeline, state.peak_bytes
    stream.evicted_text = state.evicted_text
