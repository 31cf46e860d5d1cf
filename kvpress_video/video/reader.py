"""Read a video: which frames, at which seconds, and what a HuggingFace processor has to know of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import VideoError

if TYPE_CHECKING:
    from decord import VideoReader

Frames = NDArray[np.uint8]
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Video:
    """Sampled frames of a video.

    Attributes:
        frames: RGB, (frames, height, width, 3) uint8.
        times: when each frame is shown, in seconds from the start of the video, (frames,).
        fps: sampled frames per second.
        duration: seconds of the whole video, whatever part of it was sampled.
        path: the file that it was read from, None for frames that come from memory.
    """

    frames: Frames
    times: Seconds
    fps: float
    duration: float
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def from_frames(cls, frames: Frames, fps: float) -> Video:
        """A video from frames in memory.

        Args:
            frames: RGB, (frames, height, width, 3) uint8.
            fps: frames per second.

        Raises:
            VideoError: the frames have another shape or type, there are none, or fps is not above zero.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
            raise VideoError(
                f"Frames must be (frames, height, width, 3) uint8, at least one; got {frames.shape} {frames.dtype}."
            )
        _positive("fps", fps)
        return cls(frames, np.arange(len(frames)) / fps, fps, len(frames) / fps)

    @property
    def metadata(self) -> dict[str, Any]:
        """Arguments of transformers' `VideoMetadata`.

        Its `fps` is the sampled one and its `frames_indices` count in sampled frames (with a fraction where frames are
        not evenly spaced), so that every processor finds the times of the frames as `frames_indices / fps` and their
        rate as `fps · len(frames_indices) / total_num_frames`, whatever part of the file was sampled.
        """
        count, height, width, _ = self.frames.shape
        return {
            "total_num_frames": count,
            "fps": self.fps,
            "width": width,
            "height": height,
            "duration": self.duration,
            "video_backend": "decord",
            "frames_indices": [round(float(time) * self.fps, 6) for time in self.times],
        }


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    at_most: bool = False,
) -> Video:
    """Read frames of a video file, evenly spaced in time; every frame unless `fps` or `frames` says how many.

    Args:
        path: the video file.
        fps: frames to take per second.
        frames: frames to take in all.
        start, end: the part to read, in seconds; the whole video by default.
        at_most: whether to take what there is where the video ends earlier, or has fewer frames.

    Raises:
        VideoError: the file is missing or unreadable, or does not have the frames asked for.
    """
    choice = _choose(path, fps, frames, start, end, at_most)
    return choice.read(0, len(choice.chosen))


def read_in_groups(
    path: str | Path, *, fps: float | None = None, start: float | None = None, end: float | None = None, size: int = 32
) -> tuple[int, Iterator[Video]]:
    """As `read_video`, `size` frames at a time, so that memory does not grow with the video.

    Returns:
        How many groups there are, and the groups.

    Raises:
        VideoError: the file is missing or unreadable, or does not have the frames asked for.
    """
    choice = _choose(path, fps, None, start, end)
    starts = range(0, len(choice.chosen), size)
    return len(starts), (choice.read(first, first + size) for first in starts)


@dataclass(frozen=True)
class _Choice:
    """The frames of a file that were asked for."""

    file: Path
    reader: VideoReader
    chosen: NDArray[np.int64]
    times: Seconds
    fps: float
    duration: float

    def read(self, first: int, last: int) -> Video:
        part = slice(first, last)
        frames = _decode(self.file, self.reader, self.chosen[part])
        return Video(frames, self.times[part], self.fps, self.duration, self.file)


def _choose(
    path: str | Path,
    fps: float | None,
    frames: int | None,
    start: float | None,
    end: float | None,
    at_most: bool = False,
) -> _Choice:
    _check_request(fps, frames)
    file, reader = _open(path)
    shown, duration = _timeline(file, reader)
    if at_most and end is not None:
        end = min(end, duration)
    first, last = _check_range(file, duration, start, end)
    inside = np.flatnonzero((shown >= first) & (shown < last))
    if not len(inside):
        raise VideoError(f"{file} shows no new frame between {first:g} s and {last:g} s: widen start and end.")

    if fps is None and frames is None:
        chosen, rate = inside, float(reader.get_avg_fps())
    else:
        wanted = frames if frames is not None else max(1, round((last - first) * float(fps or 0)))
        if wanted > len(inside) and at_most:
            fps, wanted = None, len(inside)
        if wanted > len(inside):
            raise VideoError(
                f"{file} has {len(inside)} frames between {first:g} s and {last:g} s, {wanted} were asked for "
                f"({f'frames={frames}' if frames is not None else f'fps={fps:g}'}): ask for fewer."
            )
        rate = float(fps) if fps is not None else wanted / (last - first)
        targets = first + np.arange(wanted) / rate
        chosen = np.searchsorted(shown, targets + 1e-3, side="right") - 1
    return _Choice(file, reader, chosen, shown[chosen], rate, duration)


def frame_rate(path: str | Path) -> float:
    """Frames per second of a video file.

    Raises:
        VideoError: the file is missing or unreadable.
    """
    _, reader = _open(path)
    return float(reader.get_avg_fps())


def _check_request(fps: float | None, frames: int | None) -> None:
    if fps is not None and frames is not None:
        raise VideoError(f"Give either fps or frames, not both (fps={fps:g}, frames={frames}).")
    if fps is not None:
        _positive("fps", fps)
    if frames is not None:
        _positive("frames", frames)


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise VideoError(f"{name} must be above zero, got {value:g}.")


def _open(path: str | Path) -> tuple[Path, VideoReader]:
    file = Path(path)
    if file.is_dir():
        raise VideoError(f"{file} is a folder: give the path of a video file.")
    if not file.exists():
        raise VideoError(f"There is no video {file}: check the path.")
    try:
        import decord
    except ImportError as error:
        raise VideoError("Reading videos needs decord: pip install decord.") from error
    try:
        return file, decord.VideoReader(str(file))
    except (RuntimeError, decord.DECORDError) as error:
        raise VideoError(
            f"{file} ({file.stat().st_size} bytes) cannot be opened as a video: it is cut off, or not a video."
        ) from error


def _timeline(file: Path, reader: VideoReader) -> tuple[Seconds, float]:
    """When each frame is shown, and the duration, in seconds, to the millisecond that decord's fp32 times carry."""
    if not len(reader):
        raise VideoError(f"{file} holds no frames: is it an audio file, or cut off?")
    spans = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
    spans = np.round(spans - spans[0, 0], 3)
    return spans[:, 0], float(spans[-1, 1])


def _check_range(file: Path, duration: float, start: float | None, end: float | None) -> tuple[float, float]:
    first, last = 0.0 if start is None else float(start), duration if end is None else float(end)
    if not 0 <= first < duration:
        raise VideoError(f"start={first:g} lies outside {file}, which is {duration:g} s long.")
    if not 0 <= last <= duration + 1e-3:
        raise VideoError(f"end={last:g} lies outside {file}, which is {duration:g} s long.")
    if last <= first:
        raise VideoError(f"end={last:g} must be after start={first:g} (seconds).")
    return first, last


def _decode(file: Path, reader: VideoReader, chosen: NDArray[np.int64]) -> Frames:
    import decord

    try:
        frames: Frames = reader.get_batch(chosen.tolist()).asnumpy()
    except (RuntimeError, decord.DECORDError) as error:
        raise VideoError(
            f"{file} is damaged: not all of its {len(reader)} frames can be decoded. Copy or download it again, "
            "or read only a part with start=… and end=…."
        ) from error
    return frames
