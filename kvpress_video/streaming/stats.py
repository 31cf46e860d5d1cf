"""Statistics of a session."""

from __future__ import annotations

from dataclasses import dataclass

from ..utils.formatting import format_bytes
from .frame_queue import FrameQueue
from .stream import Stream


@dataclass(frozen=True)
class SessionStats:
    """Frames and tokens seen so far, and the size of the cache.

    Attributes:
        frames: frames pushed.
        waiting: queued frames among them, whose chunk is not full.
        seconds: time of the last frame, None before the first.
        visual_tokens: visual tokens seen.
        entries: visual entries per KV head, of each layer.
        label_tokens: label tokens seen, the text of the processor for each frame.
        label_entries: label entries per KV head, of each layer.
        text_entries: text entries per layer and KV head, labels not counted.
        bytes: keys, values, metadata and recurrent states in the cache, all layers, and embeddings of frames stored
            with it.
        bank_bytes: part of `bytes` that is stored off the model's device.
        reserved_bytes: the cache's buffers, including unused space.
        peak_bytes: largest size of the cache so far, also within a pass.
        position: position of the next text token.
        evicted_turns: turns evicted from the cache, see `keep_turns`.
        evicted_text: text entries per layer and KV head evicted with them.
        archive_bytes: bytes of the archive on the host, which no budget caps, for methods that retrieve frames.
        recalled: questions for which frames were retrieved from it.
        frame_bytes: part of `bytes` that embeddings of the newest frames take, for methods that re-encode them.
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
    label_tokens: int = 0
    label_entries: tuple[int, ...] = ()
    evicted_turns: int = 0
    evicted_text: int = 0
    frame_bytes: int = 0
    archive_bytes: int = 0
    recalled: int = 0

    def __str__(self) -> str:
        low, high = min(self.entries), max(self.entries)
        held = f"{high}" if low == high else f"{low} to {high}"
        time = "" if self.seconds is None else f", up to {self.seconds:.1f} s"
        labels = f", {max(self.label_entries)} of {self.label_tokens} label entries" if self.label_tokens else ""
        now, peak = (format_bytes(size, "MiB") for size in (self.bytes, self.peak_bytes))
        archive = f", {format_bytes(self.archive_bytes, 'MiB')} archived" if self.archive_bytes else ""
        evicted = f" ({self.evicted_text} of {self.evicted_turns} turns evicted)" if self.evicted_turns else ""
        return (
            f"{self.frames} frames{time}; {held} of {self.visual_tokens} visual entries per layer and head{labels}, "
            f"{self.text_entries} text entries{evicted}; {now}, at most {peak}{archive}"
        )


def measure(stream: Stream, queue: FrameQueue, evicted_turns: int) -> SessionStats:
    """Measure a session."""
    layers = stream.layers
    held = [layer.rows[0].visual for layer in layers]
    return SessionStats(
        frames=queue.state.count,
        waiting=len(queue.frames),
        seconds=queue.state.last_time,
        visual_tokens=sum(layers[0].rows[0].seen.values()),
        entries=tuple(held),
        text_entries=layers[0].rows[0].text(layers[0].physical),
        label_tokens=sum(layers[0].rows[0].labels_seen.values()),
        label_entries=tuple(layer.rows[0].label_tokens for layer in layers),
        bytes=stream.uncompressed_bytes + sum(layer.bytes for layer in layers),
        bank_bytes=sum(layer.bank_bytes for layer in layers),
        reserved_bytes=stream.uncompressed_bytes + sum(layer.reserved_bytes for layer in layers),
        peak_bytes=stream.peak_bytes,
        position=stream.following,
        evicted_turns=evicted_turns,
        evicted_text=stream.evicted_text,
        frame_bytes=stream.newest.bytes,
        archive_bytes=stream.archive.bytes,
        recalled=stream.archive.recalls,
    )
