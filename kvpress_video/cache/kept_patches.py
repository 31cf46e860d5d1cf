"""The patches of a video of which a cache holds entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..compressor.entries import Context, Grid, Tags, is_visual
from ..errors import VideoError
from .layer import CompressedLayer


def kept_shares(layers: Sequence[CompressedLayer], first: int = 0) -> NDArray[np.float64]:
    """Compute the fraction of layers and heads that hold an entry of each patch of the first row's video.

    Args:
        layers: layers of a cache that holds one video.
        first: first frame to include.

    Returns:
        (frames, rows, columns).

    Raises:
        VideoError: the row holds several videos or images, or nothing visual yet.
    """
    segment, grid = _only_video(layers)
    total = np.zeros((max(0, grid.frames - first), grid.rows, grid.columns))
    parts = 0
    for tags in _visual_tags(layers, segment):
        held = np.zeros(total.shape, bool)
        mine = tags[tags[:, Tags.FRAME] >= first]
        held[mine[:, Tags.FRAME] - first, mine[:, Tags.ROW], mine[:, Tags.COLUMN]] = True
        total += held
        parts += 1
    return total / parts


def kept_entries(layers: Sequence[CompressedLayer]) -> NDArray[np.float64]:
    """Compute how many entries of each frame of the first row's video are held, mean over layers and heads, (frames,).

    Raises:
        VideoError: as `kept_shares`.
    """
    segment, grid = _only_video(layers)
    counts = [np.bincount(tags[:, Tags.FRAME], minlength=grid.frames) for tags in _visual_tags(layers, segment)]
    return np.mean(counts, axis=0)


def _only_video(layers: Sequence[CompressedLayer]) -> tuple[int, Grid]:
    grids = layers[0].rows[0].grids
    if len(grids) != 1:
        raise VideoError(f"The cache holds {len(grids)} videos and images: patches are drawn for one.")
    return next(iter(grids.items()))


def _visual_tags(layers: Sequence[CompressedLayer], segment: int) -> Iterator[NDArray[np.int32]]:
    """Yield the tags of the video's entries, (entries, Tags.WIDTH), of each head of each layer."""
    for layer in layers:
        heads = layer.keys.shape[1]
        for tags in layer.entries(Context()).tags[0].expand(heads, -1, -1).cpu().numpy():
            yield tags[(tags[:, Tags.SEGMENT] == segment) & is_visual(tags[:, Tags.KIND])]
