"""Token counts and grids of videos and images, from the inputs and outputs of any vision tower."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..compressor.entries import Grid, Kind, UnknownGrid
from ..errors import UnsupportedModelError

_PATCH_COUNTS = ("grid_hw", "grid_hws", "spatial_shapes", "target_sizes", "target_sizes_videos")
_SIZES = ("grid_thw", *_PATCH_COUNTS)


def token_counts(arguments: Mapping[str, Any], features: Any) -> list[int]:
    """Count the visual tokens of each item of a call of the vision tower.

    Args:
        arguments: arguments of the call, by name.
        features: its result: (tokens, d) or (…, tokens, d) per item in a list, or all of them in one tensor.

    Raises:
        UnsupportedModelError: the result has another form.
    """
    if isinstance(features, Tensor) and features.ndim > 2 and not _in_one(features, arguments):
        return [features.shape[1:-1].numel()] * len(features)
    if isinstance(features, Tensor) and features.ndim >= 2:
        return _split(features.shape[:-1].numel(), arguments)
    if isinstance(features, Sequence) and all(isinstance(each, Tensor) for each in features):
        return [each.shape[:-1].numel() for each in features]
    raise UnsupportedModelError(
        f"Expected a tensor or a sequence of tensors from the vision tower, got {type(features).__name__}."
    )


def _in_one(features: Tensor, arguments: Mapping[str, Any]) -> bool:
    """Whether features, (1, tokens, d), contain several items side by side."""
    sizes = _named(arguments, _SIZES)
    return len(features) == 1 and sizes is not None and len(sizes) > 1


def _split(tokens: int, arguments: Mapping[str, Any]) -> list[int]:
    """Divide the tokens of one tensor in proportion to the patches of each item, else equally."""
    sizes = _named(arguments, _SIZES)
    if sizes is not None:
        patches = sizes.prod(-1).tolist()
        unit, rest = divmod(sum(patches), tokens)
        if not rest and not any(each % unit for each in patches):
            return [each // unit for each in patches]
    items = _alike(arguments)
    return [tokens // items] * items if tokens % items == 0 else [tokens]


def _alike(arguments: Mapping[str, Any]) -> int:
    """Return the number of items of equal size; 1 if it is not known, or they differ in size."""
    sizes, pixels = _named(arguments, _SIZES), _pixels(arguments)
    if sizes is not None:
        return len(sizes) if bool((sizes == sizes[:1]).all()) else 1
    return 1 if pixels is None or pixels.ndim < 4 or _uneven(arguments) else len(pixels)


def _uneven(arguments: Mapping[str, Any]) -> bool:
    """Whether the pictures, padded to one size, are of different sizes."""
    sizes = _named(arguments, ("image_sizes", "pixel_attention_mask"))
    return sizes is not None and bool((sizes != sizes[:1]).any())


def item_grids(kind: Kind, arguments: Mapping[str, Any], features: Any, patch_size: Any = None) -> list[Grid]:
    """Infer the grid of each item of a call of the vision tower.

    Args:
        kind: kind of the items.
        arguments: arguments of the call, by name.
        features: its result, per item, or for videos per frame.
        patch_size: as in `grids`.

    Raises:
        UnsupportedModelError: the result has another form, or the frames of a video differ in size.
    """
    counts = token_counts(arguments, features)
    frames = len(counts) // _videos(kind, arguments, len(counts))
    if frames == 1:
        return grids(kind, arguments, counts, patch_size)
    if len(set(counts)) > 1:
        raise UnsupportedModelError(f"Expected frames of equal size from the vision tower, got {counts} tokens.")
    items = len(counts) // frames
    pixels = {name: arguments[name][:: max(len(arguments[name]) // items, 1)] for name in _pixel_names(arguments)}
    return [
        grid._replace(frames=frames) if grid.known else UnknownGrid(1, 1, frames * grid.tokens)
        for grid in grids(Kind.IMAGE, {**arguments, **pixels}, counts[::frames], patch_size)
    ]


def _videos(kind: Kind, arguments: Mapping[str, Any], parts: int) -> int:
    """Return the number of items in `parts` parts: fewer than these for videos that are encoded frame by frame."""
    sizes, pixels = _named(arguments, _SIZES), _pixels(arguments)
    videos = parts
    if kind is Kind.VIDEO and sizes is not None:
        videos = len(sizes)
    elif kind is Kind.VIDEO and pixels is not None and pixels.ndim == 4:
        videos = 1
    return parts if parts % videos else videos


def grids(kind: Kind, arguments: Mapping[str, Any], counts: Sequence[int], patch_size: Any = None) -> list[Grid]:
    """Infer the grid of each item.

    Sources in order of preference: patch counts (`*_grid_thw`, then two-dimensional ones), patch coordinates, and the
    shape of the pixels, if tokens divide the patches evenly.

    Args:
        kind: kind of the items.
        arguments: arguments of the call of the vision tower, by name.
        counts: tokens of each item.
        patch_size: pixels along a patch, or both of its sides; None if unknown.

    Returns:
        One grid per item, an `UnknownGrid` where it cannot be inferred.
    """
    return [_grid(kind, arguments, counts, item, patch_size) or UnknownGrid(1, 1, counts[item])
            for item in range(len(counts))]  # fmt: skip


def _grid(kind: Kind, arguments: Mapping[str, Any], counts: Sequence[int], item: int, patch_size: Any) -> Grid | None:
    for names, first in ((("grid_thw",), ()), (_PATCH_COUNTS, (1,))):
        sizes = _named(arguments, names)
        if sizes is not None and sizes.ndim == 2 and len(sizes) == len(counts):
            return _merged((*first, *sizes[item].tolist()), counts[item])
    places = _named(arguments, ("_position_ids",))
    if places is not None and places.ndim == 3 and len(places) == len(counts):
        columns, rows = (places[item].amax(dim=0) + 1).tolist()
        return _merged((1, rows, columns), counts[item])
    pixels = _pixels(arguments)
    if pixels is None or pixels.ndim not in (4, 5):
        return None
    frames = 1
    if pixels.ndim == 5 and kind is Kind.VIDEO and len(pixels) == len(counts):
        frames = pixels.shape[1]
    elif pixels.shape[:-3].numel() != len(counts):
        return None
    sizes = _named(arguments, ("image_sizes",))
    sides = pixels.shape[-2:] if sizes is None or len(sizes) != len(counts) else sizes[item].tolist()
    height, width = map(int, sides)
    return None if counts[item] % frames else _proportional(frames, counts[item] // frames, height, width, patch_size)


def _merged(patches: Sequence[int], tokens: int) -> Grid | None:
    """Return the grid of `tokens` square groups of patches, given as (frames, rows, columns)."""
    frames, rows, columns = patches
    merge = math.isqrt(frames * rows * columns // tokens)
    if not merge or rows % merge or columns % merge:
        return None
    grid = Grid(frames, rows // merge, columns // merge)
    return grid if grid.tokens == tokens else None


def _proportional(frames: int, tokens: int, height: int, width: int, patch_size: Any) -> Grid | None:
    """Return the grid of `tokens` per frame with the aspect ratio of the pixels."""
    rows = math.isqrt(tokens * height // width)
    if not rows or tokens % rows or rows * width != tokens // rows * height:
        return None
    columns = tokens // rows
    if patch_size is not None:
        down, across = patch_size if isinstance(patch_size, (list, tuple)) else (patch_size, patch_size)
        if (height // down) % rows or (width // across) % columns:
            return None
    return Grid(frames, rows, columns)


def _named(arguments: Mapping[str, Any], endings: Sequence[str]) -> Tensor | None:
    for name, value in arguments.items():
        if name.endswith(tuple(endings)) and isinstance(value, Tensor):
            return value
    return None


def _pixels(arguments: Mapping[str, Any]) -> Tensor | None:
    """Return the pixels; None if there are several floating-point inputs."""
    names = _pixel_names(arguments)
    return arguments[names[0]] if len(names) == 1 else None


def _pixel_names(arguments: Mapping[str, Any]) -> list[str]:
    return [name for name, value in arguments.items() if isinstance(value, Tensor) and value.is_floating_point()]
