"""The videos and images of one call of a vision tower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..compressor.entries import Grid
from .frame_labels import FrameLabel


@dataclass(frozen=True)
class MediaItem:
    """One video or image as the model encoded it.

    Attributes:
        grid: its visual tokens.
        separators: further placeholder tokens after them that are no patch (a newline embedding); kept as text.
        importance: vision-attention importance of each visual token, (grid.tokens,) fp32, where it was captured.
        label: for an image that may be a frame of a video, what is written between two of them.
        shown: which of its visual tokens the prompt has, (grid.tokens,) bool; None for all of them.
    """

    grid: Grid
    separators: int = 0
    importance: Tensor | None = None
    label: FrameLabel | None = None
    shown: Tensor | None = None

    @property
    def ordinals(self) -> np.ndarray:
        """The visual tokens that the prompt has, by their place in the whole grid."""
        return np.arange(self.grid.tokens) if self.shown is None else np.flatnonzero(self.shown.cpu().numpy())

    @property
    def tokens(self) -> int:
        """Placeholder tokens that it fills."""
        shown = self.grid.tokens if self.shown is None else int(self.shown.sum())
        return shown + self.separators
