"""Sizes of the benchmarks: of the model and of its inputs."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import torch

from kvpress_video.errors import unknown_name
from kvpress_video.models.devices import check_device
from kvpress_video.models.loading import load_bundled


@dataclass(frozen=True)
class Scale:
    """Sizes of a Qwen2.5-VL with random weights, and of every benchmark on it.

    Attributes:
        what: the scale, in words.
        text, vision: configuration of the two towers, over that of the bundled model.
        dtype: dtype of weights and cache.
        rounds: measured rounds after a warm-up.
        entries: lengths of the layers of `pass`.
        minutes: lengths of streams, at a frame a second.
        budget: entries of streams and capped conversations.
        patches: (rows, columns) of a frame of a stream.
        prefill_frames: frames of the prompt of `prefill`, of 18 × 18 tokens each.
        conversation: tokens of a conversation with a full cache.
        cache_bytes: memory for conversations; None for the free memory of the device.
        new_tokens: tokens decoded for each conversation.
        overhead_tokens: visual tokens of the prompt of `overhead`.
        deep_text: configuration of the text tower of `modes`, `steps` and `peers`, over `text`.
        mode_tokens: visual tokens of the prompts of `modes`, ascending.
        step_entries: entries held while `steps` decodes.
        video_seconds: length of the file that `reading` reads.
        clips: clips of `sweep`.
        ratios: budgets of `sweep`.
    """

    what: str
    text: dict[str, Any]
    vision: dict[str, Any]
    dtype: torch.dtype
    rounds: int
    entries: tuple[int, ...]
    minutes: tuple[int, ...]
    budget: int
    patches: tuple[int, int]
    prefill_frames: int
    conversation: int
    cache_bytes: int | None
    new_tokens: int
    overhead_tokens: int
    deep_text: dict[str, Any]
    mode_tokens: tuple[int, ...]
    step_entries: int
    video_seconds: int
    clips: int
    ratios: tuple[str, ...]


_TEXT_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rope_theta": 1e6,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
}
_VISION_7B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_TEXT_LAPTOP = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 8, 8]},
}
_TEXT_DEEP = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 8,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 8, 8]},
}
_VISION_LAPTOP = {"out_hidden_size": 256, "tokens_per_second": 2}

SCALES = {
    "tiny": Scale(
        what="two seconds of each, to see that it runs",
        text={},
        vision={},
        dtype=torch.float32,
        rounds=1,
        entries=(256,),
        minutes=(1, 2),
        budget=64,
        patches=(2, 2),
        prefill_frames=2,
        conversation=512,
        cache_bytes=2**21,
        new_tokens=4,
        overhead_tokens=64,
        deep_text={},
        mode_tokens=(128, 256, 512),
        step_entries=256,
        video_seconds=3,
        clips=1,
        ratios=("25%",),
    ),
    "laptop": Scale(
        what="four layers of width 256, two KV heads of 64, fp32",
        text=_TEXT_LAPTOP,
        vision=_VISION_LAPTOP,
        dtype=torch.float32,
        rounds=5,
        entries=(6_144, 24_576, 82_944),
        minutes=(1, 10, 60),
        budget=6144,
        patches=(10, 13),
        prefill_frames=64,
        conversation=82_944,
        cache_bytes=1_020_000_000,  # three full caches
        new_tokens=8,
        overhead_tokens=5_200,
        deep_text=_TEXT_DEEP,
        mode_tokens=(4_096, 8_192, 16_384),
        step_entries=8_192,
        video_seconds=120,
        clips=8,
        ratios=("50%", "25%", "12.5%", "10%", "6.25%", "5%"),
    ),
    "7b": Scale(
        what="Qwen2.5-VL-7B, bf16",
        text=_TEXT_7B,
        vision=_VISION_7B,
        dtype=torch.bfloat16,
        rounds=5,
        entries=(6_144, 24_576, 82_944),
        minutes=(1, 10, 60),
        budget=6144,
        patches=(10, 13),
        prefill_frames=256,
        conversation=82_944,
        cache_bytes=None,
        new_tokens=32,
        overhead_tokens=24_180,
        deep_text={},
        mode_tokens=(4_096, 8_192, 16_384),
        step_entries=8_192,
        video_seconds=120,
        clips=8,
        ratios=("50%", "25%", "12.5%", "10%", "6.25%", "5%"),
    ),
}


@dataclass(frozen=True, eq=False)
class Bed:
    """A device and a scale to run benchmarks at.

    Attributes:
        device: device of models and tensors.
        scale: the sizes.
        name: the scale's name.
    """

    device: torch.device
    scale: Scale
    name: str

    def deep(self) -> Bed:
        """The same bed with the text tower of `modes`, `steps` and `peers`."""
        text = self.scale.text | self.scale.deep_text
        vision = self.scale.vision | {"out_hidden_size": text["hidden_size"]} if text else self.scale.vision
        return replace(self, scale=replace(self.scale, text=text, vision=vision))

    def model(self) -> tuple[Any, Any]:
        """Make a Qwen2.5-VL with random weights, in eval mode, and a processor that never shrinks a frame."""
        processor = load_bundled(device="cpu")[1]
        for part in (processor.image_processor, processor.video_processor):
            part.size = {"shortest_edge": 28 * 28, "longest_edge": 2**40}
        from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
        from transformers.utils import is_flash_attn_2_available

        gc.collect()  # free the models of earlier benchmarks
        dtype = str(self.scale.dtype).removeprefix("torch.")
        known = json.loads((files("kvpress_video") / "data" / "bundled" / "config.json").read_text())
        known["dtype"] = known["text_config"]["dtype"] = known["vision_config"]["dtype"] = dtype
        known["text_config"] |= self.scale.text | {"layer_types": None}
        known["vision_config"] |= self.scale.vision
        flash = self.device.type == "cuda" and self.scale.dtype == torch.bfloat16 and is_flash_attn_2_available()
        with torch.device(self.device), torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForImageTextToText.from_config(
                Qwen2_5_VLConfig(**known),
                dtype=self.scale.dtype,
                attn_implementation="flash_attention_2" if flash else "sdpa",
            )
        return model.eval(), processor


def bed(scale: str | None = None, device: str | None = None) -> Bed:
    """Choose device and scale: by default the 7B model on a GPU, else the laptop's size on the CPU.

    Raises:
        UnknownNameError: there is no such scale, or no such device here.
    """
    if device is not None:
        check_device(device)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = scale or ("7b" if where.type == "cuda" else "laptop")
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return Bed(where, SCALES[name], name)
