"""Which images of a prompt are the frames of one video: those with nothing but a frame label between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ENDS = 3  # last tokens of a label, the same for every frame: `: <img>`
_BEGINS = 3  # first tokens of the text between two frames, the same all along: `</img>\nFrame`


@dataclass(frozen=True)
class FrameLabel:
    """How a family that knows images only writes the frames of a video: as images, each after its number or its time.

    No token says that a video begins. It is read off the text between images of one size, in one row of one pass: an
    image is the next frame of the video before it where that text is a label, which it is where

    - it has as many tokens as one;
    - it ends as the text before the first frame does (`: <img>`);
    - from the third frame on, it begins as that after the first frame does (`</img>\\nFrame`);
    - it does not number the first frame again, as between two videos without a word between them.

    Images that stand closer, as the tiles of one image do, or further apart are no frames, nor is a lone image. Images
    that a prompt labels alike (`Image-1: <img>…`) count as frames as well.

    Attributes:
        least, most: tokens between two frames, from those that close one to those that open the next.
        first: tokens of the first frame's label (`Frame1: <img>`) where frames are numbered; None where a label may
            come again within a video, as a time does.
    """

    least: int
    most: int
    first: int | None = None

    def continues(self, ids: np.ndarray, frames: Sequence[range], image: range) -> bool:
        """Whether an image is the next frame of a video.

        Args:
            ids: tokens of the row, (n,).
            frames: where the placeholders of each frame so far stand.
            image: where those of the image stand.
        """
        start, between = frames[0].start, ids[frames[-1].stop : image.start]
        if not self.least <= len(between) <= self.most or not _equal_before(ids, start, image.start, _ENDS):
            return False
        if len(frames) > 1 and not np.array_equal(between[:_BEGINS], ids[frames[0].stop :][:_BEGINS]):
            return False
        return self.first is None or not _equal_before(ids, start, image.start, self.first)


def _equal_before(ids: np.ndarray, one: int, other: int, count: int) -> bool:
    """Whether the same `count` tokens stand before two places."""
    return one >= count and np.array_equal(ids[one - count : one], ids[other - count : other])
