"""Videos and images as the vision tower encoded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..compressor.entries import Grid, Kind
from .frame_labels import FrameLabel

_ENCODERS: Mapping[Kind, Sequence[str]] = {
    Kind.IMAGE: ("get_image_features", "_extract_image_features"),  # the latter in code outside transformers
    Kind.VIDEO: ("get_video_features",),
}


def encoders_of(module: Any) -> dict[Kind, str]:
    """Return the name of the method of a module that encodes images or videos, per kind that it encodes."""
    found = {kind: [name for name in names if hasattr(module, name)] for kind, names in _ENCODERS.items()}
    return {kind: names[0] for kind, names in found.items() if names}


def features_of(encoded: Any) -> Any:
    """Return the visual features in the result of a vision tower.

    That is `pooler_output`, or where this is empty the features of the first deepstack level or the last hidden state.
    A tuple whose parts differ in the number of dimensions is no list of items: its first part are the features.
    """
    pooled = getattr(encoded, "pooler_output", encoded)
    if isinstance(pooled, tuple) and len({getattr(part, "ndim", None) for part in pooled}) > 1:
        return pooled[0]
    if pooled is not None:
        return pooled
    levels = getattr(encoded, "deepstack_features", None)
    return levels[0][1] if levels else encoded.last_hidden_state


@dataclass(frozen=True)
class MediaItem:
    """One encoded video or image.

    Attributes:
        grid: visual tokens of the item.
        separators: number of placeholder tokens after them that are not patches (newline embeddings); kept as text.
        importance: vision-attention importance of each visual token, (grid.tokens,) fp32; None if not captured.
        label: format of the text between two frames, for an image that may be a frame of a video.
        shown: visual tokens that the prompt contains, (grid.tokens,) bool; None for all of them.
    """

    grid: Grid
    separators: int = 0
    importance: Tensor | None = None
    label: FrameLabel | None = None
    shown: Tensor | None = None

    @property
    def ordinals(self) -> np.ndarray:
        """Visual tokens that the prompt contains, by their row-major place in the grid, (n,) int64."""
        return np.arange(self.grid.tokens) if self.shown is None else np.flatnonzero(self.shown.cpu().numpy())

    @property
    def tokens(self) -> int:
        """Number of placeholder tokens of the item in the prompt."""
        shown = self.grid.tokens if self.shown is None else int(self.shown.sum())
        return shown + self.separators
