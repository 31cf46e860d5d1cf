"""Qwen: any grid; all patches of all images (or videos) in one sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .parts import (
    DIGITS,
    IMAGE,
    MERGE,
    PATCH,
    TIME_CLOSE,
    TIME_OPEN,
    TOWER,
    VIDEO,
    VISION_END,
    VISION_START,
    Family,
    Image,
    Spelling,
    Video,
    Visual,
    cells,
    noise,
)

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
QWEN_TOWER = TOWER | {"depth": 4, "num_heads": 2, "spatial_merge_size": MERGE, "out_hidden_size": 64}
QWEN2_TOWER = QWEN_TOWER | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
QWEN2_5_TOWER = QWEN_TOWER | {"tokens_per_second": 2, "window_size": 16, "fullatt_block_indexes": [1, 3]}
QWEN3_TOWER = QWEN_TOWER | {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64}


def whole(part: Visual) -> Spelling:
    yield VISION_START, None
    for frame in range(part.frames):
        yield from cells(part, frame, range(part.rows), part.cols)
    yield VISION_END, None


def timed(part: Visual) -> Spelling:
    """A video's frames, each wrapped after its time. Times are binary, so that they differ in length at once."""
    for frame in range(part.frames):
        time = [TIME_OPEN, *(DIGITS[int(digit)] for digit in f"{frame:b}"), TIME_CLOSE] if part.kind == "video" else []
        for token in [*time, VISION_START]:
            yield token, None
        yield from cells(part, frame, range(part.rows), part.cols)
        yield VISION_END, None


def patches(visuals: Sequence[Visual], pixels: str, grids: str, step: int = 2) -> dict[str, Tensor]:
    """Pixels and grids under these names; a grid step takes `step` sampled frames."""
    if not visuals:
        return {}
    shapes = [(part.frames, MERGE * part.rows, MERGE * part.cols) for part in visuals]
    width = 3 * step * PATCH**2  # colours, sampled frames, pixels
    found = [noise(part, prod(shape), width) for part, shape in zip(visuals, shapes, strict=True)]
    return {grids: torch.tensor(shapes), pixels: torch.cat(found)}


def _qwen_pixels(images: list[Image], videos: list[Video]) -> dict[str, Tensor]:
    return patches(images, "pixel_values", "image_grid_thw") | patches(videos, "pixel_values_videos", "video_grid_thw")


def qwen(spell: Callable[[Visual], Spelling], sections: list[int], vision: dict[str, Any], **text: Any) -> Family:
    special = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    special |= {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": sections}
    return Family(spell, _qwen_pixels, {"video": (3, 4), "image": (2, 3)}, text, vision, special)


TABLE = {
    "qwen2_5_vl": qwen(whole, [2, 3, 3], QWEN2_5_TOWER),
    "qwen2_vl": qwen(whole, [2, 3, 3], QWEN2_TOWER),
    "qwen3_vl": qwen(timed, [3, 3, 2], QWEN3_TOWER),
    "qwen3_vl_moe": qwen(timed, [3, 3, 2], QWEN3_TOWER, **EXPERTS),
}
