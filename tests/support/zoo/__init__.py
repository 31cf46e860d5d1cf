"""Tiny random models of the supported families, and prompts for them: no hub, no processor, no tokenizer.

A prompt is a sequence of parts. A family *spells* a visual part as tokens, each with the place (frame, row, col) that
it shows, or none (vision start and end, timestamps, newlines). `inputs` and `expected_layout` both follow the spelling.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from copy import deepcopy
from math import prod
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from . import gemma3, internvl, llava, qwen, qwen3_5, smolvlm, video_llama_3
from .parts import (
    BOS,
    IMAGE,
    MERGE,
    PAD,
    PATCH,
    TEXT,
    UNTIED,
    VIDEO,
    VISION_END,
    VISION_START,
    WORDS,
    Family,
    Image,
    Kind,
    Place,
    Prompt,
    Slot,
    Text,
    Video,
    seeded,
)

__all__ = [
    "BOS",
    "DROPPING",
    "FAMILIES",
    "IMAGE",
    "LABELLED",
    "MERGE",
    "PAD",
    "PATCH",
    "TABLE",
    "VIDEO",
    "VISION_END",
    "VISION_START",
    "WORDS",
    "Image",
    "Prompt",
    "Text",
    "Video",
    "attentions",
    "build",
    "default_prompts",
    "expected_layout",
    "grid",
    "inputs",
    "video_input",
]

TABLE = qwen.TABLE | gemma3.TABLE | qwen3_5.TABLE | video_llama_3.TABLE | internvl.TABLE | smolvlm.TABLE | llava.TABLE
FAMILIES: tuple[str, ...] = tuple(TABLE) if not transformers.__version__.startswith("4.") else ("qwen2_5_vl",)

LABELLED = tuple(family for family in FAMILIES if family not in ("qwen2_vl", "qwen2_5_vl") and "llava" not in family)
"""Families that write something for each frame."""

DROPPING = tuple(family for family in FAMILIES if family != "gemma3")  # whose tokens can go before prefill


def build(family: str, attention: str = "eager", dtype: torch.dtype = torch.float32, layers: int = 4) -> Any:
    """A small random model in eval mode, with the same weights at every call. It decodes greedily, without end."""
    found = TABLE[family]
    text = TEXT | found.text | {"num_hidden_layers": layers}
    config = deepcopy({"text_config": text, "vision_config": found.vision} | found.top | UNTIED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **config))
        _randomize(model)
    model.set_attn_implementation(attention)
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=PAD, bos_token_id=BOS)
    return model.to(dtype).eval()


@torch.no_grad()
def _randomize(model: PreTrainedModel) -> None:
    """Weights that keep the scale of what passes through them: attention and logits are then far from uniform."""
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms stay near one, biases near zero
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        else:  # a matrix, a convolution or, in three dimensions, a stack of matrices
            parameter.normal_(std=prod(parameter.shape[-1 if parameter.ndim == 3 else 1 :]) ** -0.5)
    head = model.get_output_embeddings().weight
    head[: WORDS.start] = head[WORDS.stop :] = 0  # greedy decoding says words only, never a placeholder


def inputs(model: PreTrainedModel, prompts: Sequence[Prompt], device: str | None = None) -> dict[str, Tensor]:
    """Inputs of `model.generate(**inputs)`, padded on the left."""
    family = TABLE[model.config.model_type]
    rows = [torch.tensor([token for token, *_ in _tokens(family, prompt)]) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side="left")
    parts = [part for prompt in prompts for part in prompt.parts]
    images = [part for part in parts if isinstance(part, Image)]
    videos = [part for part in parts if isinstance(part, Video)]
    shown = [[part for part in prompt.parts if not isinstance(part, Text)] for prompt in prompts]
    pixels = family.pixels(shown) if family.frames_are_images else family.pixels(images, videos)
    found = {"input_ids": ids, "attention_mask": (ids != PAD).long()} | pixels
    taken = inspect.signature(type(model).forward).parameters
    if "mm_token_type_ids" in taken:
        found["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    if "token_type_ids" in taken:
        found["token_type_ids"] = (ids == IMAGE).int()
    if "second_per_grid_ts" in taken and videos:
        found["second_per_grid_ts"] = torch.tensor([video.seconds for video in videos])
    return {name: value.to(device or model.device) for name, value in found.items()}


def attentions(model: PreTrainedModel) -> dict[int, Any]:
    """The attention modules of a model's text layers of full attention, by the number of their layer."""
    text: Any = model.get_decoder()
    kinds = getattr(text.config, "layer_types", None) or ["full_attention"] * len(text.layers)
    pairs = enumerate(zip(text.layers, kinds, strict=True))
    return {number: layer.self_attn for number, (layer, kind) in pairs if kind == "full_attention"}


def expected_layout(family: str, prompt: Prompt) -> list[Slot]:
    """The visual tokens of a prompt. A LLaVA image is one frame: the rows of its base view, then those of its
    high-resolution view. LLaVA's newline tokens carry the placeholder's id but show nothing, and are left out."""
    tokens = enumerate(_tokens(TABLE[family], prompt))
    return [Slot(index, kind, segment, *place) for index, (_, kind, segment, place) in tokens if kind and place]


def grid(family: str, kind: Kind = "video") -> tuple[int, int]:
    """Rows and columns that fit: for a LLaVA video the only ones that do, else an example."""
    return TABLE[family].grids[kind]


def video_input(family: str) -> str:
    """The input that holds the pixels of a video."""
    return "pixel_values" if TABLE[family].frames_are_images else "pixel_values_videos"


def default_prompts(family: str) -> list[Prompt]:
    """A short video, a longer prompt, and an image before a video: all of different lengths, and fit for one batch.
    LLaVA stacks all videos of a batch, so there each has three frames and the longer prompt has two of them."""
    size = grid(family)
    short, long = Video(3, *size, seed=2, seconds=2.0), Video(5, *size, seed=6)
    longer = [Video(3, *size, seed=6), Text(3, seed=7), Video(3, *size, seed=8)] if "llava" in family else [long]
    return [
        Prompt([Text(5, seed=1), short, Text(7, seed=3)]),
        Prompt([Text(4, seed=4), *longer, Text(6, seed=5)]),
        Prompt([Text(3, seed=9), Image(*grid(family, "image"), seed=10), Text(2, seed=11), short, Text(9, seed=13)]),
    ]


def _tokens(family: Family, prompt: Prompt) -> Iterator[tuple[int, Kind | None, int, Place | None]]:
    yield BOS, None, 0, None
    segment = 0
    for part in prompt.parts:
        if isinstance(part, Text):
            for word in torch.randint(WORDS.start, WORDS.stop, (part.tokens,), generator=seeded(part.seed)):
                yield int(word), None, segment, None
        else:
            for token, place in family.spell(part):
                yield token, part.kind, segment, place
            segment += 1
