"""Qwen2.5-VL: a video is a block of visual tokens, whose positions encode the time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...world.scene import SIDE
from ..vision import MERGED, TOKENS, through_blocks
from .base import FRONT, Family, special_token_ids, text_config, vision_config


class Qwen25VL(Family):
    """A stock Qwen2.5-VL of under 3 M parameters."""

    name = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"
    dtype = "float32"
    written_times = False

    def config(self, tokens: dict[str, int], vocabulary: int) -> Any:
        from transformers import Qwen2_5_VLConfig

        text = text_config(tokens, vocabulary) | {
            "rope_theta": 1000.0,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [10, 3, 3], "rope_theta": 1e3},
            "tie_word_embeddings": False,
        }
        vision = vision_config() | {
            "window_size": SIDE,
            "fullatt_block_indexes": [0, 1, 2],
            "tokens_per_second": 1,
        }
        return Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=False, **special_token_ids(tokens)
        )

    def processor(self, tokenizer: Any) -> Any:
        from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

        pixels = {"shortest_edge": 28 * 28, "longest_edge": SIDE * SIDE}
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=pixels),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(size=pixels, do_sample_frames=False, cap_pixels_per_frame=False),
            chat_template=tokenizer.chat_template,
        )

    def seconds(self, frames: int, dice: random.Random) -> tuple[float, ...]:
        return tuple(map(float, range(frames)))

    def video_text(self, seconds: Sequence[float]) -> str:
        return FRONT + "<|video_pad|>" * (TOKENS * len(seconds))

    def positions(self, visual: Tensor, used: Tensor, length: Tensor, dice: Tensor, conversation: bool) -> Tensor:
        """Compute positions `(3, B, S)`.

        Text after a video continues from its largest position up to transformers 4.57, and from its height and width
        from 5.x on; there, generated tokens follow the prompt in `generate()`, and the largest position in a bare
        `forward()`. Clips train all three ways. Frames are a second apart in most clips, two or four seconds in some,
        so that the model has seen dropped frames.
        """
        device = used.device
        start = 4
        frames = (len(visual) - start) // TOKENS
        stride = 1 + (dice[1] > 0.8).long() + 2 * (dice[1] > 0.9)
        time, row, column = torch.meshgrid(
            torch.arange(frames, device=device), *(torch.arange(MERGED, device=device),) * 2, indexing="ij"
        )
        time, row, column = (part.flatten().expand(len(used), -1) for part in (time, row, column))
        video = torch.stack([time * stride[:, None], row, column]) + start
        front = torch.arange(start, device=device).expand(3, len(used), -1)

        latest = (start + stride * (frames - 1))[:, None]
        end = torch.where(dice[0, :, None] < 0.6, start + MERGED, (latest + 1).clamp(min=start + MERGED))
        blocks = used[:, 1:].view(len(used), 1 if conversation else length.shape[1], -1)
        told = blocks.long().cumsum(-1)
        prompt = length[:, :1, None] if conversation else length[..., None]
        jump = torch.where(dice[0, :, None] < 0.15, latest - end, 0)[..., None]
        text = end[..., None] + torch.where(told > prompt, told + (jump - prompt).clamp(min=0), told)
        text = torch.cat([end, text.flatten(1)], dim=1).expand(3, -1, -1)
        return torch.cat([front, video, text], dim=2)

    def see(self, visual: Any, patches: Tensor, rotation: tuple[Tensor, Tensor]) -> list[Tensor]:
        projection = visual.patch_embed.proj.weight
        x = functional.linear(patches, projection.view(projection.shape[0], -1))
        *_, x = through_blocks(visual, x, rotation)
        tokens: Tensor = visual.merger(x.reshape(-1, x.shape[-1]))
        return [tokens.view(len(patches), TOKENS, -1)]

    def text_inputs(self, mask: Tensor, visual: Tensor, added: list[Tensor]) -> dict[str, Any]:
        return {"attention_mask": {"full_attention": mask}}

    def readable(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the rotary settings of a configuration where both transformers 4.57 and 5.x read them."""
        text = dict(config["text_config"])
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope["rope_theta"]
        text["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": rope["mrope_section"]}
        return {**super().readable(config), "text_config": text, "transformers_version": "4.57.0"}
