"""The resolution of frames that a processor can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SPARE = 2
"""Ratio of pixels kept to pixels that the processor keeps, so that it resizes to the same grid as from the full frame.
"""
_ASPECT = 4
"""Largest aspect ratio at which both sides are at least as long as a processor's fixed ones."""


def frame_pixels(processor: Any) -> int | None:
    """Return the pixels per frame that a processor can use, for the `max_pixels` of `read_video`.

    It is about twice the processor's own limit.

    Returns:
        None if the settings do not state a limit.
    """
    images = getattr(processor, "video_processor", None) or getattr(processor, "image_processor", None)
    size = _sides(getattr(images, "size", None))
    patch = getattr(images, "patch_size", 1) * getattr(images, "merge_size", 1)
    longest, shortest = size.get("longest_edge"), size.get("shortest_edge")
    if longest and hasattr(images, "merge_size"):  # Qwen's convention: an area, not an edge
        pixels = longest
    elif longest:
        pixels = longest * longest
    elif shortest:
        pixels = _ASPECT * shortest * shortest
    elif size.get("height") and size.get("width"):
        pixels = _ASPECT * size["height"] * size["width"]
    elif size.get("max_height") and size.get("max_width"):
        pixels = size["max_height"] * size["max_width"]
    else:
        return None
    return _SPARE * pixels if pixels >= patch * patch else None


def _sides(size: Any) -> dict[str, int]:
    names = ("longest_edge", "shortest_edge", "height", "width", "max_height", "max_width")
    read = size.get if isinstance(size, Mapping) else lambda name: getattr(size, name, None)
    return {name: int(value) for name in names if (value := read(name))}
