"""Gemma 3: images alone, so a video is its frames, one image after the other; every other text layer is sliding."""

from __future__ import annotations

import torch
from torch import Tensor

from .internvl import SIDE, frames_of, square
from .parts import IMAGE, MERGE, PATCH, TOWER, VISION_END, VISION_START, Family, Spelling, Visual

NEWLINES, MORE_NEWLINES = range(14, 16)  # two, four
WINDOW = 20  # of the sliding layers, in tokens: less than two images

_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}


def _spell(part: Visual) -> Spelling:
    yield NEWLINES, None
    for frame in range(part.frames):
        if frame:
            yield MORE_NEWLINES, None
        yield VISION_START, None
        yield from square(frame)
        yield VISION_END, None
    yield NEWLINES, None


def _pixels(prompts: list[list[Visual]]) -> dict[str, Tensor]:
    frames = [frames_of(part) for parts in prompts for part in parts]
    return {"pixel_values": torch.cat(frames)} if frames else {}


TABLE = {
    "gemma3": Family(
        _spell,
        _pixels,
        {"video": (SIDE, SIDE), "image": (SIDE, SIDE)},
        {"sliding_window": WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 24, "rope_parameters": _ROPE},
        TOWER | {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE * MERGE * PATCH},
        {"image_token_index": IMAGE, "mm_tokens_per_image": SIDE**2},
        frames_are_images=True,
    )
}
