"""Detection of videos in prompts of images: consecutive images with only a frame label between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ENDS = 3  # last tokens of a label, equal for every frame: `: <img>`
_BEGINS = 3  # first tokens of the text between two frames, equal throughout: `</img>\nFrame`


@dataclass(frozen=True)
class FrameLabel:
    """Format of the text between two frames, for families that represent a video as labelled images.

    No token marks the start of a video. It is inferred from the text between images of equal size, in one row of one
    pass: an image is the next frame of the preceding video if that text is a label, which means that

    - its number of tokens is between `least` and `most`;
    - it ends like the text before the first frame (`: <img>`);
    - from the third frame on, it begins like the text after the first frame (`</img>\\nFrame`);
    - it does not repeat the label of the first frame, which would start another video.

    Images closer together (tiles of one image) or further apart are not frames, nor is a single image. Images that a
    prompt labels in the same way (`Image-1: <img>…`) count as frames too.

    Attributes:
        least: smallest number of tokens between two frames, including those that close one and open the next.
        most: largest number of those tokens.
        first: number of tokens of the first frame's label (`Frame1: <img>`) if frames are numbered; None if a label
            may recur within a video, as a time may.
    """

    least: int
    most: int
    first: int | None = None

    def continues(self, ids: np.ndarray, frames: Sequence[range], image: range) -> bool:
        """Check whether an image is the next frame of a video.

        Args:
            ids: token ids of the row, (n,).
            frames: positions of the placeholders of each frame so far.
            image: positions of the placeholders of the image.
        """
        start, between = frames[0].start, ids[frames[-1].stop : image.start]
        if not self.least <= len(between) <= self.most or not _equal_before(ids, start, image.start, _ENDS):
            return False
        if len(frames) > 1 and not np.array_equal(between[:_BEGINS], ids[frames[0].stop :][:_BEGINS]):
            return False
        return self.first is None or not _equal_before(ids, start, image.start, self.first)


def _equal_before(ids: np.ndarray, one: int, other: int, count: int) -> bool:
    """Check that the `count` tokens before two positions are equal."""
    return one >= count and np.array_equal(ids[one - count : one], ids[other - count : other])
