"""A prompt with a random video: its content does not affect time or memory."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

_TEXT = 10


def video_prompt(model: Any, frames: int, rows: int, columns: int) -> dict[str, Tensor]:
    """Make arguments of `model.generate()`: text, a video and text, on the model's device.

    Args:
        model: a Qwen2.5-VL.
        frames: temporal steps of the model, of two video frames each.
        rows, columns: merged patches of a frame.
    """
    config, device = model.config, model.device
    vision, draw = config.vision_config, torch.Generator(device).manual_seed(0)
    text, merge = torch.arange(3, 3 + _TEXT), vision.spatial_merge_size
    video = torch.full((frames * rows * columns,), config.video_token_id)
    marks = [torch.tensor([token]) for token in (config.vision_start_token_id, config.vision_end_token_id)]
    ids = torch.cat([text, marks[0], video, marks[1], text])[None].to(device)
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    patches = frames * rows * columns * merge**2
    kinds = {"mm_token_type_ids": 2 * (ids == config.video_token_id).int()}
    taken = inspect.signature(type(model).forward).parameters
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        **{name: part for name, part in kinds.items() if name in taken},  # not before transformers 5
        "pixel_values_videos": torch.randn(patches, width, generator=draw, device=device, dtype=model.dtype),
        "video_grid_thw": torch.tensor([[frames, rows * merge, columns * merge]], device=device),
        "second_per_grid_ts": torch.ones(1, device=device),
    }
