"""InternVL: a square vision tower, all frames and images of a batch in one stack, frames numbered in the text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .parts import (
    DECIMAL,
    IMAGE,
    MERGE,
    PATCH,
    TOWER,
    VISION_END,
    VISION_START,
    Family,
    Spelling,
    Visual,
    noise,
)

NEWLINE, FRAME, COLON, SPACE = range(10, 14)
SIDE = 3  # visual tokens along a side of a frame


def square(frame: int) -> Spelling:
    """The tokens of a frame, which is an image."""
    for row in range(SIDE):
        for col in range(SIDE):
            yield IMAGE, (frame, row, col)


def decimal(number: int, digits: int = 1) -> list[int]:
    return [DECIMAL[int(digit)] for digit in f"{number:0{digits}}"]


def frames_of(part: Visual) -> Tensor:
    """(frames, 3, side, side) pixels."""
    return noise(part, part.frames, 3, SIDE * MERGE * PATCH, SIDE * MERGE * PATCH)


def numbered(part: Visual) -> Spelling:
    for frame in range(part.frames):
        lines = [NEWLINE] if frame else []
        label = [*lines, FRAME, *decimal(frame + 1), COLON, SPACE] if part.kind == "video" else []
        for token in [*label, VISION_START]:
            yield token, None
        yield from square(frame)
        yield VISION_END, None


def _pixels(prompts: list[list[Visual]]) -> dict[str, Tensor]:
    frames = [frames_of(part) for parts in prompts for part in parts]
    return {"pixel_values": torch.cat(frames)} if frames else {}


LEARNED = {"attention_bias": True, "use_qk_norm": True, "norm_type": "rms_norm"}
INTERNVL_TOWER: dict[str, Any] = TOWER | {"num_hidden_layers": 3, "num_attention_heads": 2} | LEARNED
TABLE = {
    "internvl": Family(
        numbered,
        _pixels,
        {"video": (SIDE, SIDE), "image": (SIDE, SIDE)},
        {"model_type": "qwen3"},
        INTERNVL_TOWER | {"image_size": SIDE * MERGE * PATCH, "layer_scale_init_value": 1.0},
        {"image_token_id": IMAGE, "downsample_ratio": 1 / MERGE, "image_seq_length": SIDE**2},
        frames_are_images=True,
    )
}
