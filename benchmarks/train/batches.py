"""Training batches made on the device: one packed sequence per clip, with the video and all of its questions.

Either each question sees the video and itself only, at the positions of a prompt of its own, so that training on the
packed sequence equals asking one question per prompt; or the questions are the turns of one conversation. Nothing here
synchronises with the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..world.clips import NOISE
from ..world.questions import ANSWERS, PLAN, TEMPLATES, ask
from ..world.render import render
from ..world.scene import CELLS, Scenes, sample_scenes
from ..world.shapes import SHAPES
from .compression_artefacts import compress_like_video
from .model import MERGED, patchify

TOKENS = MERGED * MERGED
"""Visual tokens a frame."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
IGNORED = -100
_HOLE = -1


@dataclass(frozen=True)
class Batch:
    """B packed sequences of S positions; the last Q · L of them are Q question blocks of L."""

    patches: Tensor  # (B · T, 64, 1176)
    sprites: Tensor  # (B · T · 16, 5) targets of the probe
    before: Tensor  # (4,) token ids before the video
    after: Tensor  # (B, 1 + Q · L) token ids after it
    positions: Tensor  # (3, B, S)
    mask: Tensor  # (1 or B, 1, S, S) bool: may row attend to column
    answer: Tensor  # (B, Q, W) the tokens of the answer, then IGNORED
    answer_at: Tensor  # (B, Q, W) position in its block that predicts each of them
    kind: Tensor  # (B, Q) index into `PLAN`
    moving: Tensor  # (B,)


class Phrasebook:
    """The world's questions and answers as rows of token ids on a device."""

    def __init__(self, tokenizer: Any, device: torch.device) -> None:
        def encode(text: str) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
            return ids

        turn = encode("\n<|im_start|>user\n")
        closing = encode("<|im_end|>\n<|im_start|>assistant\n")
        prompts = [turn + encode(text.format(shape=SHAPES[0])) + closing for text in TEMPLATES]
        named = encode(f" {SHAPES[0]}")[0]
        prompts = [[_HOLE if token == named else token for token in prompt] for prompt in prompts]
        answers = [encode(answer + "<|im_end|>") for answer in ANSWERS]
        shapes = [encode(f" {shape}") for shape in SHAPES]
        if any(len(ids) != 1 for ids in shapes):
            raise ValueError("the tokenizer splits the name of a shape: train it on the world's questions")
        self.before = torch.tensor(encode("<|im_start|>user\n<|vision_start|>"), device=device)
        self.end = encode("<|vision_end|>")[0]
        self.turn = len(turn)
        self.length = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.answer = _rows(answers, IGNORED).to(device)
        room = -(-(max(map(len, prompts)) + self.answer.shape[1]) // 8) * 8
        self.prompt = _rows(prompts, 0, room).to(device)
        self.shape = torch.tensor(shapes, device=device)[:, 0]


def _rows(lists: list[list[int]], fill: int, width: int | None = None) -> Tensor:
    """Lists of ids as one tensor, padded on the right."""
    width = width or max(map(len, lists))
    return torch.tensor([ids + [fill] * (width - len(ids)) for ids in lists])


def make_batch(
    book: Phrasebook, count: int, frames: int, generator: torch.Generator, conversation: bool = False
) -> Batch:
    """Make `count` new clips of `frames` frames, half of them with a moving camera."""
    device = generator.device
    moving = torch.arange(count, device=device) % 2 == 1
    scenes = sample_scenes(moving, frames, generator)
    asked = ask(scenes, generator)
    video = compress_like_video(render(scenes, NOISE, generator), generator)
    mean, std = _normalisation(device)

    kind = torch.rand(count, len(PLAN), generator=generator, device=device).argsort(1)
    template, shape, answer_id = (part.gather(1, kind) for part in (asked.template, asked.shape, asked.answer))
    prompt = book.prompt[template]
    tokens = torch.where(prompt == _HOLE, book.shape[shape][..., None], prompt)
    answer = book.answer[answer_id]
    length = book.length[template]
    place = length[..., None] + torch.arange(answer.shape[-1], device=device)
    tokens = tokens.scatter(2, place, answer.clamp(min=0))
    after = torch.cat([torch.full((count, 1), book.end, device=device), tokens.flatten(1)], dim=1)

    step = torch.arange(tokens.shape[-1], device=device)
    used = step < (length + (answer != IGNORED).sum(-1))[..., None]
    used[:, 0 if conversation else slice(None)] &= step >= book.turn
    used = torch.cat([torch.ones(count, 1, dtype=torch.bool, device=device), used.flatten(1)], dim=1)
    dice = torch.rand(2, count, generator=generator, device=device)
    if conversation:
        seen = functional.pad(used, (4 + frames * TOKENS, 0), value=True)
        index = torch.arange(seen.shape[1], device=device)
        mask = (seen[:, None] & (index[:, None] >= index))[:, None]
    else:
        mask = _separate(frames, len(PLAN), tokens.shape[-1], book.turn, device)

    return Batch(
        patches=patchify((video - mean) / std),
        sprites=_sprites(scenes).flatten(0, 2),
        before=book.before,
        after=after,
        positions=_positions(used, length - book.turn, frames, dice, conversation),
        mask=mask,
        answer=answer,
        answer_at=place - 1,
        kind=kind,
        moving=moving,
    )


@cache
def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the video processor for pixels of 0 … 255, `(3, 1, 1)` each."""
    mean, std = torch.tensor([MEAN, STD], device=device).mul(255).view(2, 3, 1, 1).unbind(0)
    return mean, std


def _sprites(scenes: Scenes) -> Tensor:
    """Shape, colour (0: none), flashing, row and column of each token, `(B, T, 16, 5)`."""
    batch, frames = scenes.offset.shape[:2]
    device = scenes.offset.device
    found = torch.zeros(batch, frames + 1, TOKENS, 3, dtype=torch.long, device=device)
    rows = torch.arange(batch, device=device)[:, None]
    times = torch.arange(frames, device=device)
    cells = scenes.sprite_cell()
    for sprite in range(cells.shape[-1]):
        seen = torch.stack([scenes.sprite_shape[:, sprite] + 1, scenes.sprite_colour[:, sprite] + 1], -1)
        found[rows, times, cells[..., sprite], :2] = seen[:, None].expand(-1, frames, -1)
    lit = torch.stack([scenes.flash_shape + 1, scenes.flash_colour + 1, torch.ones_like(scenes.flash_shape)], -1)
    found[rows, scenes.flash_frame, scenes.flash_cell] = lit
    cell = torch.arange(TOKENS, device=device)
    place = torch.stack([cell // CELLS, cell % CELLS], -1).expand(batch, frames, -1, -1)
    return torch.cat([found[:, :frames], place], dim=-1)


def _positions(used: Tensor, length: Tensor, frames: int, dice: Tensor, conversation: bool) -> Tensor:
    """Positions `(3, B, S)`; `used` (B, 1 + Q · L) tells tokens behind the video from the gaps between them, `length`
    (B, Q) is that of each question's prompt alone, and `dice` (2, B) in 0 … 1 chooses.

    Text after a video continues from its largest position up to transformers 4.57, and from its height and width from
    5.x on; there, generated tokens follow the prompt in `generate()`, and the largest position in a bare `forward()`.
    Clips train all three ways. Frames are a second apart in most clips, two or four seconds in some, so that the model
    has seen dropped frames.
    """
    device = used.device
    start = 4
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


@cache
def _separate(frames: int, questions: int, room: int, turn: int, device: torch.device) -> Tensor:
    """Causal, no question sees another, and nobody the `turn` places before each: `(1, 1, S, S)` bool."""
    index = torch.arange(4 + frames * TOKENS + 1 + questions * room, device=device)
    inside = index - (4 + frames * TOKENS + 1)
    block = inside.div(room, rounding_mode="floor").clamp(min=-1)
    shared = inside < 0
    visible = (index[:, None] >= index) & ((block[:, None] == block) & (inside % room >= turn) | shared)
    return visible[None, None]
