"""What prompts are made of, and what a family of models is to the zoo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

PAD, BOS, TIME_OPEN, TIME_CLOSE = range(4)
DIGITS = (8, 9)  # 0 and 1
DECIMAL = range(16, 26)  # 0 to 9
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
    """Frames are temporal grid steps, `seconds` apart; rows and columns count merged tokens. A `thin` one leaves tokens
    out, in families that can."""

    frames: int
    rows: int
    cols: int
    seed: int = 0
    seconds: float = 1.0
    thin: bool = False
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
    """Recipe for a model and its inputs; `text`, `vision` and `top` are config arguments.

    Attributes:
        frames_are_images: whether a video is given as images: then `pixels` takes the visual parts of each prompt.
    """

    spell: Callable[[Visual], Spelling]
    pixels: Callable[..., dict[str, Tensor]]  # of all images and all videos of a batch
    grids: dict[Kind, tuple[int, int]]  # rows, cols
    text: dict[str, Any]
    vision: dict[str, Any]
    top: dict[str, Any]
    frames_are_images: bool = False


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(part: Visual, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(part.seed))


def cells(part: Visual, frame: int, rows: range, cols: int) -> Spelling:
    for row in rows:
        for col in range(cols):
            yield part.placeholder, (frame, row, col)


UNTIED = {"tie_word_embeddings": False}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SPECIAL = {"bos_token_id": BOS, "eos_token_id": None, "pad_token_id": PAD}
SIZES = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 4096}
TEXT = SIZES | HEADS | SPECIAL | {"rope_theta": 10000.0} | UNTIED
TOWER = {"hidden_size": 32, "intermediate_size": 48, "patch_size": PATCH}
