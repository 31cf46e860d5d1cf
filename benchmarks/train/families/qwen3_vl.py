"""Qwen3-VL: every frame is preceded by its time as text, and text layers receive features of earlier vision blocks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...world.clips import LONGEST
from ...world.scene import SIDE
from ..vision import MEAN, MERGED, PATCH, STD, TOKENS, merged_order, through_blocks
from .base import FRONT, Family, special_token_ids, text_config, vision_config

LATEST = 999
"""Latest second that can be written, with three digits."""
LATER = 0.2
"""Share of batches whose clips begin at a random second."""


class Qwen3VL(Family):
    """A stock Qwen3-VL of under 3 M parameters."""

    name = "qwen3_vl"
    model_class = "Qwen3VLForConditionalGeneration"
    processor_class = "Qwen3VLProcessor"
    dtype = "bfloat16"
    written_times = True

    def config(self, tokens: dict[str, int], vocabulary: int) -> Any:
        """Make the configuration: attention has biases, and low frequencies for the 12 to 14 positions of a frame."""
        from transformers import Qwen3VLConfig

        text = text_config(tokens, vocabulary) | {
            "head_dim": 32,
            "attention_bias": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e5,
                "mrope_section": [10, 3, 3],
                "mrope_interleaved": True,
            },
        }
        vision = vision_config() | {
            "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [0],
        }
        return Qwen3VLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=False, **special_token_ids(tokens)
        )

    def processor(self, tokenizer: Any) -> Any:
        from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

        edge = SIDE * SIDE
        pixels: dict[str, Any] = {"patch_size": PATCH, "image_mean": list(MEAN), "image_std": list(STD)}
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": edge}, **pixels),
            tokenizer=tokenizer,
            video_processor=Qwen3VLVideoProcessor(
                size={"shortest_edge": 28 * 28, "longest_edge": LONGEST * edge},  # of a whole video
                cap_pixels_per_frame=True,
                max_video_tokens=TOKENS,
                do_sample_frames=False,
                **pixels,
            ),
            chat_template=tokenizer.chat_template,
        )

    def seconds(self, frames: int, dice: random.Random) -> tuple[float, ...]:
        """Draw times: from 0 in most batches, else from a later second, some with dropped frames."""
        start, step = 0.25, 1
        if dice.random() < LATER:
            step = dice.choice((1, 1, 2))
            start = dice.randrange(LATEST - step * frames) + dice.choice((0.25, 0.0, 0.5, 0.75))
        return tuple(start + step * frame for frame in range(frames))

    def video_text(self, seconds: Sequence[float]) -> str:
        frame = "<|vision_start|>" + "<|video_pad|>" * TOKENS + "<|vision_end|>"
        return FRONT + "".join(f"<{time:.1f} seconds>{frame}" for time in seconds)

    def positions(self, visual: Tensor, used: Tensor, length: Tensor, dice: Tensor, conversation: bool) -> Tensor:
        """Compute positions `(3, B, S)`: a frame takes as many as its side, and text one per token."""
        within = (visual.long().cumsum(0) - 1) % TOKENS
        row, column = within // MERGED, within % MERGED
        begins = visual & (within == 0)
        steps = torch.where(visual, begins * MERGED, 1)
        start = steps.cumsum(0) - torch.where(visual, MERGED, 1)
        video = torch.stack([start, start + row * visual, start + column * visual])

        blocks = used[:, 1:].view(len(used), 1 if conversation else length.shape[1], -1)
        end = steps.sum()
        text = torch.cat([end.expand(len(used), 1), (end + blocks.long().cumsum(-1)).flatten(1)], dim=1)
        return torch.cat([video[:, None].expand(-1, len(used), -1), text.expand(3, -1, -1)], dim=2)

    def see(self, visual: Any, patches: Tensor, rotation: tuple[Tensor, Tensor]) -> list[Tensor]:
        projection = visual.patch_embed.proj
        x = functional.linear(patches, projection.weight.view(projection.out_channels, -1), projection.bias)
        side = visual.num_grid_per_side
        learned = visual.pos_embed.weight[merged_order(torch.arange(side * side, device=x.device).view(side, side))]
        outputs = list(through_blocks(visual, x + learned, rotation))
        tokens = visual.merger(outputs[-1].flatten(0, 1))
        levels = zip(visual.deepstack_visual_indexes, visual.deepstack_merger_list, strict=True)
        added = [merger(outputs[level].flatten(0, 1)) for level, merger in levels]
        return [part.view(len(patches), TOKENS, -1) for part in (tokens, *added)]

    def text_inputs(self, mask: Tensor, visual: Tensor, added: list[Tensor]) -> dict[str, Any]:
        levels = [level.flatten(0, 1) for level in added]
        return {"attention_mask": mask, "visual_pos_masks": visual, "deepstack_visual_embeds": levels}
