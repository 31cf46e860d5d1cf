"""Tiny random models of the supported families, and prompts for them: no hub, no processor, no tokenizer.

A prompt is a sequence of parts. A family *spells* a visual part as tokens, each with the place (frame, row, col) that
it shows, or none (vision start and end, timestamps, newlines). `inputs` and `expected_layout` both follow the spelling.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

PAD, BOS, TIME_OPEN, TIME_CLOSE = range(4)
DIGITS = (8, 9)  # 0 and 1
WORDS = range(32, 248)
IMAGE, VIDEO, VISION_START, VISION_END = range(248, 252)

PATCH = 4  # pixels per side of a patch
MERGE = 2  # patches per side of a merged token (Qwen)

Kind = Literal["image", "video"]
Place = tuple[int, int, int]  # frame, row, col


@dataclass(frozen=True)
class Text:
    """Random words."""

    tokens: int
    seed: int = 0


@dataclass(frozen=True)
class Image:
    """Rows and columns count merged tokens; in LLaVA those of the high-resolution view: multiples of the base's."""

    rows: int
    cols: int
    seed: int = 0
    frames: ClassVar[int] = 1
    kind: ClassVar[Kind] = "image"
    placeholder: ClassVar[int] = IMAGE


@dataclass(frozen=True)
class Video:
    """Frames are temporal grid steps, `seconds` apart; rows and columns count merged tokens."""

    frames: int
    rows: int
    cols: int
    seed: int = 0
    seconds: float = 1.0
    kind: ClassVar[Kind] = "video"
    placeholder: ClassVar[int] = VIDEO


Visual = Image | Video


@dataclass(frozen=True)
class Prompt:
    parts: Sequence[Text | Visual]


class Slot(NamedTuple):
    """A visual token's index before padding, and what it shows. Segments count a prompt's images and videos."""

    token: int
    kind: Kind
    segment: int
    frame: int
    row: int
    col: int


Spelling = Iterator[tuple[int, Place | None]]


@dataclass(frozen=True)
class Family:
    """How to build a model and its inputs; `text`, `vision` and `top` are config arguments."""

    spell: Callable[[Visual], Spelling]
    pixels: Callable[[list[Image], list[Video]], dict[str, Tensor]]  # of all images and all videos of a batch
    grids: dict[Kind, tuple[int, int]]  # rows, cols
    text: dict[str, Any]
    vision: dict[str, Any]
    top: dict[str, Any]


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
    """What `model.generate(**inputs)` takes; rows are padded on the left."""
    family = TABLE[model.config.model_type]
    rows = [torch.tensor([token for token, *_ in _tokens(family, prompt)]) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side="left")
    parts = [part for prompt in prompts for part in prompt.parts]
    images = [part for part in parts if isinstance(part, Image)]
    videos = [part for part in parts if isinstance(part, Video)]
    found = {"input_ids": ids, "attention_mask": (ids != PAD).long()} | family.pixels(images, videos)
    taken = inspect.signature(type(model).forward).parameters
    if "mm_token_type_ids" in taken:
        found["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    if "second_per_grid_ts" in taken and videos:
        found["second_per_grid_ts"] = torch.tensor([video.seconds for video in videos])
    return {name: value.to(device or model.device) for name, value in found.items()}


def expected_layout(family: str, prompt: Prompt) -> list[Slot]:
    """The visual tokens of a prompt. A LLaVA image is one frame: the rows of its base view, then those of its
    high-resolution view. LLaVA's newline tokens carry the placeholder's id but show nothing, and are left out."""
    tokens = enumerate(_tokens(TABLE[family], prompt))
    return [Slot(index, kind, segment, *place) for index, (_, kind, segment, place) in tokens if kind and place]


def grid(family: str, kind: Kind = "video") -> tuple[int, int]:
    """Rows and columns that fit: for a LLaVA video the only ones that do, else an example."""
    return TABLE[family].grids[kind]


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
            for word in torch.randint(WORDS.start, WORDS.stop, (part.tokens,), generator=_random(part.seed)):
                yield int(word), None, segment, None
        else:
            for token, place in family.spell(part):
                yield token, part.kind, segment, place
            segment += 1


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _noise(part: Visual, *shape: int) -> Tensor:
    return torch.randn(shape, generator=_random(part.seed))


def _cells(part: Visual, frame: int, rows: range, cols: int) -> Spelling:
    for row in rows:
        for col in range(cols):
            yield part.placeholder, (frame, row, col)


# --- Qwen: any grid; all patches of all images (or videos) in one sequence --------------------------------------------


def _whole(part: Visual) -> Spelling:
    yield VISION_START, None
    for frame in range(part.frames):
        yield from _cells(part, frame, range(part.rows), part.cols)
    yield VISION_END, None


def _timed(part: Visual) -> Spelling:
    """A video's frames, each wrapped after its time. Times are binary, so that they differ in length at once."""
    for frame in range(part.frames):
        time = [TIME_OPEN, *(DIGITS[int(digit)] for digit in f"{frame:b}"), TIME_CLOSE] if part.kind == "video" else []
        for token in [*time, VISION_START]:
            yield token, None
        yield from _cells(part, frame, range(part.rows), part.cols)
        yield VISION_END, None


def _patches(visuals: Sequence[Visual], pixels: str, grids: str) -> dict[str, Tensor]:
    if not visuals:
        return {}
    shapes = [(part.frames, MERGE * part.rows, MERGE * part.cols) for part in visuals]
    width = 3 * 2 * PATCH**2  # colours, sampled frames of a grid step, pixels
    noise = [_noise(part, prod(shape), width) for part, shape in zip(visuals, shapes, strict=True)]
    return {grids: torch.tensor(shapes), pixels: torch.cat(noise)}


def _qwen_pixels(images: list[Image], videos: list[Video]) -> dict[str, Tensor]:
    return _patches(images, "pixel_values", "image_grid_thw") | _patches(
        videos, "pixel_values_videos", "video_grid_thw"
    )


# --- LLaVA: a square vision tower, so a fixed grid --------------------------------------------------------------------


def _llava(side: int, newline: bool, text: dict[str, Any], vision: dict[str, Any]) -> Family:
    """An image is a square base view, then the high-resolution view with a newline after each row; a video is its
    frames, pooled to half the side, and in some families one newline at the very end."""

    def spell(part: Visual) -> Spelling:
        if part.kind == "image":
            yield from _cells(part, 0, range(side), side)
            for row in range(side, side + part.rows):
                yield from _cells(part, 0, range(row, row + 1), part.cols)
                yield part.placeholder, None
        else:
            for frame in range(part.frames):
                yield from _cells(part, frame, range(part.rows), part.cols)
            if newline:
                yield part.placeholder, None

    def pixels(images: list[Image], videos: list[Video]) -> dict[str, Tensor]:
        found = {}
        square = (3, side * PATCH, side * PATCH)
        if images:
            views = [_noise(part, 1 + part.rows * part.cols // side**2, *square) for part in images]  # base view first
            found["pixel_values"] = pad_sequence(views, batch_first=True)
            found["image_sizes"] = torch.tensor([(PATCH * part.rows, PATCH * part.cols) for part in images])
        if videos:
            found["pixel_values_videos"] = torch.stack([_noise(part, part.frames, *square) for part in videos])
        return found

    pooled, size = (side + 1) // 2, side * PATCH
    grids: dict[Kind, tuple[int, int]] = {"video": (pooled, pooled), "image": (side, 2 * side)}
    pinpoints = [[size, size], [size, 2 * size], [2 * size, size]]
    top = {"image_token_index": IMAGE, "video_token_index": VIDEO, "image_grid_pinpoints": pinpoints}
    return Family(spell, pixels, grids, text, vision | LLAVA_TOWER | {"image_size": size}, top)


# --- The table --------------------------------------------------------------------------------------------------------

UNTIED = {"tie_word_embeddings": False}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SPECIAL = {"bos_token_id": BOS, "eos_token_id": None, "pad_token_id": PAD}
SIZES = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 4096}
TEXT = SIZES | HEADS | SPECIAL | {"rope_theta": 10000.0} | UNTIED
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "patch_size": PATCH}
LLAVA_TOWER = TOWER | {"num_hidden_layers": 3, "num_attention_heads": 2}
QWEN_TOWER = TOWER | {"depth": 4, "num_heads": 2, "spatial_merge_size": MERGE, "out_hidden_size": 64}
QWEN2_TOWER = QWEN_TOWER | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
QWEN2_5_TOWER = QWEN_TOWER | {"tokens_per_second": 2, "window_size": 16, "fullatt_block_indexes": [1, 3]}
QWEN3_TOWER = QWEN_TOWER | {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64}


def _qwen(spell: Callable[[Visual], Spelling], sections: list[int], vision: dict[str, Any], **text: Any) -> Family:
    special = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    special |= {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": sections}
    return Family(spell, _qwen_pixels, {"video": (3, 4), "image": (2, 3)}, text, vision, special)


TABLE = {
    "qwen2_5_vl": _qwen(_whole, [2, 3, 3], QWEN2_5_TOWER),
    "qwen2_vl": _qwen(_whole, [2, 3, 3], QWEN2_TOWER),
    "qwen3_vl": _qwen(_timed, [3, 3, 2], QWEN3_TOWER),
    "qwen3_vl_moe": _qwen(_timed, [3, 3, 2], QWEN3_TOWER, **EXPERTS),
    "llava_onevision": _llava(5, True, {"model_type": "qwen2"}, {"model_type": "siglip_vision_model"}),
    "llava_next_video": _llava(6, False, {"model_type": "llama"}, {"model_type": "clip_vision_model"}),
}
FAMILIES: tuple[str, ...] = tuple(TABLE) if not transformers.__version__.startswith("4.") else ("qwen2_5_vl",)
