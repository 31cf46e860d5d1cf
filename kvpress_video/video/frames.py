"""Frames that come in one by one: brought to one form, and to what a model's vision tower takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import VideoError
from .reader import Frames


def as_frames(frames: Any) -> Frames:
    """RGB frames, (n, height, width, 3) uint8.

    Args:
        frames: one frame or several; a PIL image, a numpy array (height, width, 3) or a torch tensor with the colours
            first or last, a list of those, or a stack. Whole numbers from 0 to 255, or fractions from 0 to 1.

    Raises:
        VideoError: there are none, or they have another shape, range or several sizes.
    """
    if isinstance(frames, (list, tuple)):
        if not frames:
            raise VideoError("No frames were given.")
        parts = [as_frames(frame) for frame in frames]
        sizes = sorted({part.shape[1:3] for part in parts})
        if len(sizes) > 1:
            raise VideoError(
                f"The frames differ in size: {', '.join(f'{h}×{w}' for h, w in sizes)}. Bring them to one."
            )
        return np.concatenate(parts)
    if hasattr(frames, "convert"):
        frames = np.asarray(frames.convert("RGB"))
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
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
            raise VideoError("Frames of fractions must lie between 0 and 1: divide by 255, or give uint8.")
        return np.rint(array * 255).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer) and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    raise VideoError(f"Frames must be whole numbers from 0 to 255 or fractions from 0 to 1; got {array.dtype}.")


def as_times(times: float | Iterable[float], count: int, last: float | None) -> list[float]:
    """When each of `count` frames was shown, in seconds.

    Args:
        times: one per frame.
        last: when the frame before them was shown, None if there is none.

    Raises:
        VideoError: there are more or fewer than frames, they are no numbers, or time does not move on.
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
            raise VideoError(f"Time must move on: a frame at {time:g} s came after one at {before:g} s.")
    return found


def process(processor: Any, frames: Sequence[Any]) -> Any:
    """What the vision tower takes for some frames (height, width, 3) uint8 as they are: none left out."""
    return processor.video_processor(videos=[np.stack(frames)], do_sample_frames=False, return_tensors="pt")
