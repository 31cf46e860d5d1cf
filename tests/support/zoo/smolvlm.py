"""SmolVLM2: a square vision tower, a row of frames and images per prompt, the time of each frame in the text."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .internvl import COLON, FRAME, NEWLINE, SIDE, SPACE, decimal, frames_of, square
from .parts import IMAGE, MERGE, PATCH, TOWER, VISION_END, VISION_START, Family, Spelling, Video, Visual

FROM, FAKE, GLOBAL = 14, VISION_END, VISION_START
INTRO = range(26, 32)  # told before a video: how many frames, how long


def timed(part: Visual) -> Spelling:
    if isinstance(part, Video):
        for token in INTRO:
            yield token, None
    for frame in range(part.frames):
        label = []
        if isinstance(part, Video):
            minutes, seconds = divmod(int(frame * part.seconds), 60)
            label = [NEWLINE, FRAME, FROM, SPACE, *decimal(minutes, 2), COLON, *decimal(seconds, 2), COLON]
        for token in [*label, FAKE, GLOBAL]:
            yield token, None
        yield from square(frame)
        yield FAKE, None
    if part.kind == "video":
        yield NEWLINE, None


def _pixels(prompts: list[list[Visual]]) -> dict[str, Tensor]:
    """A prompt with fewer images than another is filled up with empty ones; a prompt without any has one."""
    if not any(prompts):
        return {}
    empty = torch.zeros(0, 3, SIDE * MERGE * PATCH, SIDE * MERGE * PATCH)
    rows = [torch.cat([empty, *map(frames_of, parts)]) for parts in prompts]
    pixels = pad_sequence(rows, batch_first=True)
    real = pad_sequence([torch.ones(len(row), *row.shape[2:], dtype=torch.long) for row in rows], batch_first=True)
    return {"pixel_values": pixels, "pixel_attention_mask": real}


TABLE = {
    "smolvlm": Family(
        timed,
        _pixels,
        {"video": (SIDE, SIDE), "image": (SIDE, SIDE)},
        {"model_type": "llama"},
        TOWER | {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": SIDE * MERGE * PATCH},
        {"image_token_id": IMAGE, "scale_factor": MERGE},
        frames_are_images=True,
    )
}
