"""Training batches, made on the device: one packed sequence per clip, with the video and all of its questions.

Either each question attends to the video and itself only, at the positions of a separate prompt, so that training on
the packed sequence equals asking one question per prompt, or the questions are the turns of one conversation. Nothing
here synchronises with the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .compression_artefacts import compress_like_video
from .families import Family
from .vision import MEAN, STD, patchify
from .worlds import TrainingWorld

IGNORED = -100
_HOLE = -1


@dataclass(frozen=True)
class Opening:
    """Tokens of a prompt up to the end of its video of T frames."""

    ids: Tensor  # (P,)
    visual: Tensor  # (P,) bool: whether each is visual
    shown: Tensor  # (T · 16,) indices of the visual tokens
    seconds: Tensor  # (T, W) the tokens of the whole second of each frame as an answer, then IGNORED
    digits: Tensor  # (T, 3) its units, tens and hundreds; 10 for absent digits


@dataclass(frozen=True)
class Batch:
    """B packed sequences of S positions: an opening of P, and Q question blocks of L after the video's last token."""

    patches: Tensor  # (B · T, 64, 1176)
    targets: Tensor  # (B · T · 16, R) of the probe
    opening: Opening
    after: Tensor  # (B, 1 + Q · L) token ids after it
    positions: Tensor  # (3, B, S)
    mask: Tensor  # (1 or B, 1, Q · L, S) bool: mask of the question blocks; earlier tokens are causal
    answer: Tensor  # (B, Q, W) the tokens of the answer, then IGNORED
    answer_at: Tensor  # (B, Q, W) position in its block that predicts each token
    kind: Tensor  # (B, Q) index into the plan
    moving: Tensor  # (B,)


class Phrasebook:
    """Questions and answers of a world as rows of token ids on a device, with the video text of a family."""

    def __init__(self, family: Family, world: TrainingWorld, tokenizer: Any, device: torch.device) -> None:
        self.family, self.world, self.tokenizer, self.device = family, world, tokenizer, device
        self.plan = world.plan(family.written_times)
        turn = self._encode("\n<|im_start|>user\n")
        closing = self._encode("<|im_end|>\n<|im_start|>assistant\n")
        prompts = [turn + self._encode(world.text(text, world.names[0])) + closing for text in world.templates]
        named = self._encode(f" {world.names[0]}")[0]
        prompts = [[_HOLE if token == named else token for token in prompt] for prompt in prompts]
        names = [self._encode(f" {name}") for name in world.names]
        if any(len(ids) != 1 for ids in names):
            raise ValueError("the tokenizer splits a name: train it on the world's questions")
        self.end = self._encode("<|vision_end|>")[0]
        self.turn = len(turn)
        self.length = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.answer = self._answers(world.answers)
        room = -(-(max(map(len, prompts)) + self.answer.shape[1]) // 8) * 8
        self.prompt = _rows(prompts, 0, room).to(device)
        self.name = torch.tensor(names, device=device)[:, 0]
        self._openings: dict[tuple[float, ...], Opening] = {}

    def opening(self, seconds: Sequence[float]) -> Opening:
        """Return the opening for frames at these times, cached if it is the same for every video."""
        known = self._openings.get(tuple(seconds))
        if known is not None:
            return known
        ids = torch.tensor(self._encode(self.family.video_text(seconds)), device=self.device)
        visual = ids == self.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        whole = [f"{time:.1f}".split(".")[0] for time in seconds]
        digits = torch.tensor([[int(digit) for digit in reversed(text)] + [10] * (3 - len(text)) for text in whole])
        answers = self._answers(whole, self.answer.shape[1])
        made = Opening(ids, visual, visual.nonzero()[:, 0], answers, digits.to(self.device))
        if not self.family.written_times:
            self._openings[tuple(seconds)] = made
        return made

    def _answers(self, texts: Sequence[str], width: int | None = None) -> Tensor:
        return _rows([self._encode(text + "<|im_end|>") for text in texts], IGNORED, width).to(self.device)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def _rows(lists: list[list[int]], fill: int, width: int | None = None) -> Tensor:
    """Join lists of ids into one tensor, padded on the right."""
    width = width or max(map(len, lists))
    return torch.tensor([ids + [fill] * (width - len(ids)) for ids in lists])


def make_batch(
    book: Phrasebook,
    count: int,
    seconds: Sequence[float],
    generator: torch.Generator,
    conversation: bool = False,
    only: Sequence[int] = (),
) -> Batch:
    """Make `count` new clips with frames at `seconds`, half of them with a moving camera.

    Each clip gets all questions of the plan, or those of the kinds in `only`.
    """
    device = generator.device
    frames, family = len(seconds), book.family
    opening = book.opening(seconds)
    moving = torch.arange(count, device=device) % 2 == 1
    drawn = book.world.draw(moving, frames, family.written_times, generator)
    video = compress_like_video(drawn.video, generator)
    mean, std = _normalisation(device)

    kinds = _kinds(tuple(only) or tuple(range(len(book.plan))), device)
    questions = len(kinds)
    kind = kinds[torch.rand(count, questions, generator=generator, device=device).argsort(1)]
    template, name, answer_id = (part.gather(1, kind) for part in (drawn.template, drawn.name, drawn.answer))
    prompt = book.prompt[template]
    tokens = torch.where(prompt == _HOLE, book.name[name][..., None], prompt)
    answer = torch.cat([book.answer, opening.seconds])[answer_id]
    length = book.length[template]
    place = length[..., None] + torch.arange(answer.shape[-1], device=device)
    tokens = tokens.scatter(2, place, answer.clamp(min=0))
    after = torch.cat([torch.full((count, 1), book.end, device=device), tokens.flatten(1)], dim=1)

    step = torch.arange(tokens.shape[-1], device=device)
    used = step < (length + (answer != IGNORED).sum(-1))[..., None]
    used[:, 0 if conversation else slice(None)] &= step >= book.turn
    used = torch.cat([torch.ones(count, 1, dtype=torch.bool, device=device), used.flatten(1)], dim=1)
    dice = torch.rand(2, count, generator=generator, device=device)
    dice[1] *= book.world.spaced
    if conversation:
        seen = functional.pad(used, (len(opening.ids), 0), value=True)
        index = torch.arange(seen.shape[1], device=device)
        mask = (seen[:, None] & (index[len(opening.ids) + 1 :, None] >= index))[:, None]
    else:
        mask = _separate(len(opening.ids) + 1, questions, tokens.shape[-1], book.turn, device)

    return Batch(
        patches=patchify((video - mean) / std),
        targets=drawn.targets.flatten(0, 2),
        opening=opening,
        after=after,
        positions=family.positions(opening.visual, used, length - book.turn, dice, conversation),
        mask=mask,
        answer=answer,
        answer_at=place - 1,
        kind=kind,
        moving=moving,
    )


@cache
def _kinds(kinds: tuple[int, ...], device: torch.device) -> Tensor:
    """Return kinds of questions on a device; a captured CUDA graph cannot copy them there."""
    return torch.tensor(kinds, device=device)


@cache
def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of the video processor for pixels of 0 … 255, `(3, 1, 1)` each."""
    mean, std = torch.tensor([MEAN, STD], device=device).mul(255).view(2, 3, 1, 1).unbind(0)
    return mean, std


@lru_cache(maxsize=32)
def _separate(shared: int, questions: int, room: int, turn: int, device: torch.device) -> Tensor:
    """Build a causal mask after `shared` tokens that hides other questions and the `turn` tokens before each question.

    Returns:
        The rows of the questions, `(1, 1, Q · L, S)` bool.
    """
    index = torch.arange(shared + questions * room, device=device)
    inside = index - shared
    block = inside.div(room, rounding_mode="floor").clamp(min=-1)
    row, rows = index[shared:, None], block[shared:, None]
    visible = (row >= index) & ((rows == block) & (inside % room >= turn) | (inside < 0))
    return visible[None, None]
