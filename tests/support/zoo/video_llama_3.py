"""Video-LLaMA 3: Qwen's patches, the time before every frame, and videos that leave tokens out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .parts import (
    DIGITS,
    IMAGE,
    MERGE,
    TIME_CLOSE,
    TIME_OPEN,
    TOWER,
    VIDEO,
    Family,
    Image,
    Place,
    Spelling,
    Video,
    Visual,
    cells,
)
from .qwen import patches


def spell(part: Visual) -> Spelling:
    """Each frame of a video after its time, without the tokens that are left out."""
    for frame in range(part.frames):
        time = [TIME_OPEN, *(DIGITS[int(digit)] for digit in f"{frame:b}"), TIME_CLOSE] if part.kind == "video" else []
        for token in time:
            yield token, None
        for token, place in cells(part, frame, range(part.rows), part.cols):
            if isinstance(part, Image) or (place and shown(part, place)):
                yield token, place


def shown(video: Video, place: Place) -> bool:
    """Whether a token is there: in a thin video every third of those after the first frame is not."""
    frame, row, col = place
    return not video.thin or frame == 0 or (frame + 2 * row + col) % 3 > 0


def _pixels(images: list[Image], videos: list[Video]) -> dict[str, Tensor]:
    found = patches(images, "pixel_values", "image_grid_thw", step=1)
    found |= patches(videos, "pixel_values_videos", "video_grid_thw", step=1)
    if images:
        found["image_merge_sizes"] = torch.full((len(images),), MERGE)
    if videos:
        found["video_merge_sizes"] = torch.full((len(videos),), MERGE)
        found["video_compression_mask"] = torch.tensor(
            [shown(video, place) for video in videos for place in np.ndindex(video.frames, video.rows, video.cols)]
        )
    return found


TABLE = {
    "video_llama_3": Family(
        spell,
        _pixels,
        {"video": (3, 4), "image": (2, 3)},
        {"model_type": "qwen2"},
        TOWER | {"num_hidden_layers": 4, "num_attention_heads": 2},
        {"image_token_id": IMAGE, "video_token_id": VIDEO},
    )
}
