"""A session, measured."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.formatting import format_bytes
from .frame_queue import FrameQueue
from .stream import Stream


@dataclass(frozen=True)
class SessionStats:
    """What a session has seen and holds.

    Attributes:
        frames: pushed so far.
        waiting: how many of them still wait for their chunk to fill.
        seconds: time of the last frame, None before the first.
        visual_tokens: visual tokens seen.
        entries: visual entries held per layer, per KV head.
        text_entries: text entries held per layer and KV head.
        bytes: what the cache holds: keys, values and metadata, every layer.
        bank_bytes: how many of them are in the bank, off the model's device.
        reserved_bytes: its buffers, room that is not filled included.
        peak_bytes: the most it ever held.
        position: the position of the next text token.
    """

    frames: int
    waiting: int
    seconds: float | None
    visual_tokens: int
    entries: tuple[int, ...]
    text_entries: int
    bytes: int
    bank_bytes: int
    reserved_bytes: int
    peak_bytes: int
    position: int

    def __str__(self) -> str:
        low, high = min(self.entries), max(self.entries)
        held = f"{high}" if low == high else f"{low} to {high}"
        time = "" if self.seconds is None else f", up to {self.seconds:.1f} s"
        now, peak = (format_bytes(size, "MiB") for size in (self.bytes, self.peak_bytes))
        return (
            f"{self.frames} frames{time}; {held} of {self.visual_tokens} visual entries per layer and head, "
            f"{self.text_entries} text entries; {now}, at most {peak}"
        )


def measured(stream: Stream, inbox: FrameQueue) -> SessionStats:
    """A session as it is now."""
    layers = stream.layers
    held = [sum(layer.rows[0].held.values()) for layer in layers]
    return SessionStats(
        frames=inbox.count,
        waiting=len(inbox.frames),
        seconds=inbox.last_time,
        visual_tokens=sum(layers[0].rows[0].seen.values()),
        entries=tuple(held),
        text_entries=layers[0].physical - held[0],
        bytes=sum(layer.bytes for layer in layers),
        bank_bytes=sum(layer.bank_bytes for layer in layers),
        reserved_bytes=sum(layer.reserved_bytes for layer in layers),
        peak_bytes=stream.peak_bytes,
        position=stream.following,
    )
