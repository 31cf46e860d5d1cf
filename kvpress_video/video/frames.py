"""Convert pushed frames to one format, and to inputs of a vision tower."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import VideoError
from .reader import Frames


def as_frames(frames: Any) -> Frames:
    """Convert frames to RGB, (n, height, width, 3) uint8.

    Args:
        frames: one frame or several; a PIL image, a numpy array (height, width, 3) or a torch tensor with the colours
            first or last, a list of those, or a stack. Integers from 0 to 255, or floats from 0 to 1, of any precision.

    Raises:
        VideoError: there are no frames, they have another shape, type or range, or they differ in size.
    """
    if isinstance(frames, (list, tuple)):
        if not frames:
            raise VideoError("No frames were given.")
        parts = [as_frames(frame) for frame in frames]
        sizes = sorted({part.shape[1:3] for part in parts})
        if len(sizes) > 1:
            raise VideoError(
                f"The frames differ in size: {', '.join(f'{h}×{w}' for h, w in sizes)}. Resize them to one size."
            )
        return np.concatenate(parts)
    if hasattr(frames, "convert"):
        frames = np.asarray(frames.convert("RGB"))
    if isinstance(frames, torch.Tensor):
        frames = (frames.float() if frames.is_floating_point() else frames).detach().cpu()
    array = np.asarray(frames)
    if array.dtype.name.startswith(("bfloat", "float")):
        array = array.astype(np.float32)  # NumPy does not count the smallest types as floating-point
    if array.ndim == 3:
        array = array[None]
    if array.ndim == 4 and array.shape[-1] != 3 and array.shape[1] == 3:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[-1] != 3 or not array.size:
        raise VideoError(f"Frames must be (n, height, width, 3), at least one of them; got {np.shape(frames)}.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise VideoError("Frames in floating point must lie between 0 and 1: divide by 255, or give uint8.")
        return np.rint(array * 255).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer) and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    raise VideoError(f"Frames must be integers from 0 to 255 or floats from 0 to 1; got {array.dtype}.")


def as_times(times: float | Iterable[float], count: int, last: float | None) -> list[float]:
    """Check the times of frames, in seconds.

    Args:
        times: one per frame.
        count: number of frames.
        last: time of the frame before them; None if there is none.

    Raises:
        VideoError: their number differs from that of the frames, or they are not finite or not increasing.
    """
    given = list(times) if isinstance(times, Iterable) else [times]
    try:
        found = [float(time) for time in given]
    except (TypeError, ValueError) as error:
        raise VideoError(f"Times must be numbers of seconds, got {times!r:.80}.") from error
    if len(found) != count:
        raise VideoError(f"{count} frames came with {len(found)} times: give one per frame.")
    for before, time in zip([last, *found], found, strict=False):
        if not math.isfinite(time):
            raise VideoError(f"A frame's time must be a number of seconds, got {time}.")
        if before is not None and time <= before:
            raise VideoError(f"Times must increase: a frame at {time:g} s came after one at {before:g} s.")
    return found


def process(processor: Any, frames: Sequence[Any], **options: Any) -> Any:
    """Prepare all frames, (height, width, 3) uint8 each, for the vision tower.

    Args:
        processor: processor with a video processor.
        frames: frames of one size.
        **options: further arguments of the video processor.
    """
    return processor.video_processor(videos=[np.stack(frames)], do_sample_frames=False, return_tensors="pt", **options)
