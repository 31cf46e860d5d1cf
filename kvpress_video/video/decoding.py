"""Decode chosen frames of a video in order, scaled and rotated upright."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError
from .packets import decoded, demuxed, is_broadcast
from .source import Source
from .timeline import Timeline

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Frames = NDArray[np.uint8]

_MIN_SKIP = 16
"""Minimum number of frames that a seek must skip: a seek empties the decoder's pipeline."""


def decode(
    source: Source, timeline: Timeline, chosen: Iterable[int], max_pixels: int | None
) -> Generator[Frames, None, None]:
    """Decode frames as a player shows them: upright RGB, (height, width, 3) uint8 each.

    One decoder advances only as far as frames are consumed, and seeks if that skips enough frames.

    Args:
        source, timeline: the video.
        chosen: frames of the timeline, ascending; a frame may be chosen several times.
        max_pixels: pixels per frame above which frames are scaled down; None keeps their size.

    Raises:
        VideoError: frames are missing or damaged.
    """
    with ExitStack() as opened:
        convert, player, last = _Converter(timeline, max_pixels), _Player(source, timeline, opened), -1
        for index in map(int, chosen):
            if index != last:
                picture, last = convert(player.show(index)), index
            yield picture


def shown_size(timeline: Timeline, max_pixels: int | None) -> tuple[int, int]:
    """Return height and width of an upright frame, scaled down to `max_pixels`."""
    height, width = scaled_size(timeline.height, timeline.width, max_pixels)
    return (width, height) if timeline.orientation[0, 1] else (height, width)


def scaled_size(height: int, width: int, max_pixels: int | None) -> tuple[int, int]:
    """Scale a frame down to `max_pixels`; of the last few heights, the one whose width is closest to a whole number."""
    if max_pixels is None or height * width <= max_pixels:
        return height, width
    most = max(1, min(max_pixels, int(math.sqrt(max_pixels * height / width))))
    widths = {lower: lower * width / height for lower in range(most, max(0, most - 32), -1)}
    best = min(widths, key=lambda lower: abs(widths[lower] - round(widths[lower])))
    return best, max(1, min(round(widths[best]), max_pixels // best))


class _Converter:
    """Converts decoded frames to upright RGB of one size."""

    def __init__(self, timeline: Timeline, max_pixels: int | None) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._height, self._width = scaled_size(timeline.height, timeline.width, max_pixels)
        self._matrix = timeline.orientation
        self._reformatter, self._interpolation = VideoReformatter(), Interpolation.BICUBIC

    def __call__(self, frame: VideoFrame) -> Frames:
        rgb: Any = self._reformatter.reformat(
            frame, self._width, self._height, "rgb24", interpolation=self._interpolation
        ).to_ndarray()
        if self._matrix[0, 1]:
            rgb = rgb.swapaxes(0, 1)
        x, y = self._matrix.sum(axis=0)  # the sign of each axis, from whichever column it comes
        upright: Frames = rgb[:: int(y), :: int(x)]
        return upright


class _Player:
    """A decoder that advances through a video, by seeking where key frames allow it."""

    def __init__(self, source: Source, timeline: Timeline, opened: ExitStack) -> None:
        self._source, self._timeline, self._opened = source, timeline, opened
        self._seeks = list(timeline.key_packets[:2])  # timestamps to seek by: first of presentation, then of decoding
        self._sought = False
        self._place = -1
        self._shown: VideoFrame | None = None
        self._next: tuple[int, VideoFrame] | None = None
        self._open()

    def show(self, index: int) -> VideoFrame:
        """Decode the frame on screen at a place of the timeline, which must not precede the last one requested.

        Raises:
            VideoError: the video ends before it, or is damaged.
        """
        self._seek(index)
        met = self._advance(index)
        if not met and self._sought:  # after a seek, only timestamps that match exactly are trusted
            self._seeks = []
            self._open()
            met = self._advance(index)
        if self._shown is None or not (met or self._next):
            raise self._source.damaged()
        return self._shown  # a packet may hold no frame: the previous one stays on screen

    def _advance(self, index: int) -> bool:
        """Decode up to a frame; return False if the decoder omits it."""
        while self._place < index:
            self._next = self._next or next(self._frames, None)
            if self._next is None:
                return False
            if self._timeline.complete and 0 <= self._place < self._next[0] - 1:
                raise self._source.damaged()
            if self._next[0] > index:
                return False
            (self._place, self._shown), self._next = self._next, None
        return True

    def _seek(self, index: int) -> None:
        """Seek to the last key frame before a frame, if that skips enough frames."""
        keys = self._timeline.key_frames
        key = int(np.searchsorted(keys, index, side="right")) - 1
        while self._seeks and key >= 0 and keys[key] - self._place >= _MIN_SKIP:
            if self._lands(int(self._seeks[0][key]), index):
                return
            self._seeks = self._seeks[1:]
            if not self._seeks:
                self._open()

    def _lands(self, tick: int, index: int) -> bool:
        """Seek; return False if this does not lead to a true key frame before the wanted frame."""
        import av

        try:
            self._container.seek(tick, stream=self._stream)
        except av.error.FFmpegError:
            return False
        self._begin(sought=True)
        for place, frame in self._frames:
            if frame.key_frame or place > index:
                self._next = place, frame
                return place <= index
        return False

    def _open(self) -> None:
        self._opened.close()
        self._container, self._stream = self._opened.enter_context(self._source.open())
        self._stream.codec_context.thread_type = "AUTO"
        self._begin(sought=False)

    def _begin(self, sought: bool) -> None:
        self._sought = sought
        self._frames = self._placed()
        self._place, self._shown, self._next = -1, None, None

    def _placed(self) -> Iterator[tuple[int, VideoFrame]]:
        """Continue decoding, and find each frame's place in the timeline; after a seek, as long as they are in order.

        Raises:
            VideoError: timestamps do not rise in the order in which frames are shown.
        """
        ticks = self._timeline.ticks
        frames = decoded(self._packets(), self._source)
        if ticks is None:
            yield from enumerate(frames)
            return
        last = 0
        for frame in frames:
            if frame.pts is not None and frame.pts >= ticks[0]:
                place = int(np.searchsorted(ticks, frame.pts, side="right")) - 1
                if place < last and not is_broadcast(self._container):
                    if self._sought:
                        return
                    raise self._disordered(last)
                yield place, frame
                last = place

    def _disordered(self, place: int) -> VideoError:
        return VideoError(
            f"{self._source.name} has wrong timestamps: after {self._timeline.times[place]:g} s they go back, although "
            "its frames are in order. Copy its stream into a new file (ffmpeg -fflags +genpts -i … -c copy …)."
        )

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the following packets; after a seek those from the first key frame on, none if the timeline does not
        contain it.
        """
        begun = not self._sought
        for packet in demuxed(self._container, self._stream):
            if not begun and packet.is_keyframe:
                pts, _, places = self._timeline.key_packets
                begun = bool(((pts == packet.pts) & (places == packet.pos)).any())
                if not begun:
                    return
            if begun:
                yield packet
