"""LLaVA: a square vision tower, so a fixed grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .parts import IMAGE, PATCH, TOWER, VIDEO, Family, Image, Kind, Spelling, Video, Visual, cells, noise

LLAVA_TOWER = TOWER | {"num_hidden_layers": 3, "num_attention_heads": 2}


def _llava(side: int, newline: bool, text: dict[str, Any], vision: dict[str, Any]) -> Family:
    """An image is a square base view, then the high-resolution view with a newline after each row; a video is its
    frames, pooled to half the side, and in some families one newline at the very end."""

    def spell(part: Visual) -> Spelling:
        if part.kind == "image":
            yield from cells(part, 0, range(side), side)
            for row in range(side, side + part.rows):
                yield from cells(part, 0, range(row, row + 1), part.cols)
                yield part.placeholder, None
        else:
            for frame in range(part.frames):
                yield from cells(part, frame, range(part.rows), part.cols)
            if newline:
                yield part.placeholder, None

    def pixels(images: list[Image], videos: list[Video]) -> dict[str, Tensor]:
        found = {}
        square = (3, side * PATCH, side * PATCH)
        if images:
            views = [noise(part, 1 + part.rows * part.cols // side**2, *square) for part in images]  # base view first
            found["pixel_values"] = pad_sequence(views, batch_first=True)
            found["image_sizes"] = torch.tensor([(PATCH * part.rows, PATCH * part.cols) for part in images])
        if videos:
            found["pixel_values_videos"] = torch.stack([noise(part, part.frames, *square) for part in videos])
        return found

    pooled, size = (side + 1) // 2, side * PATCH
    grids: dict[Kind, tuple[int, int]] = {"video": (pooled, pooled), "image": (side, 2 * side)}
    pinpoints = [[size, size], [size, 2 * size], [2 * size, size]]
    top = {"image_token_index": IMAGE, "video_token_index": VIDEO, "image_grid_pinpoints": pinpoints}
    return Family(spell, pixels, grids, text, vision | LLAVA_TOWER | {"image_size": size}, top)


TABLE = {
    "llava_onevision": _llava(5, True, {"model_type": "qwen2"}, {"model_type": "siglip_vision_model"}),
    "llava_next_video": _llava(6, False, {"model_type": "llama"}, {"model_type": "clip_vision_model"}),
}
