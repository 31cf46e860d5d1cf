"""Questions about a scene, as integers (for training on a device) and in plain English."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress_video.errors import unknown_name

from .scene import FLASHES, STAYING, Scenes
from .shapes import COLOURS, NUMBERS, PLACES, SHAPES

FAMILIES = ("needle", "order", "count", "persistent", "place")
"""needle: attribute of a one-frame flash; order: first or last flash; count: how many flashes; persistent: attribute of
an object that stays; place: where an object is in the last frame."""
TIME = "time"
"""Family of questions about the second of a flash, for models whose processor writes the time of each frame."""

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "flash colour": (
        "needle",
        (
            "What colour was the {shape} that flashed?",
            "The {shape} flashed on a white tile. What was its colour?",
            "Which colour did the flashing {shape} have?",
        ),
    ),
    "flash place": (
        "needle",
        (
            "Where was the {shape} that flashed?",
            "The {shape} flashed on a white tile. Where was it?",
            "In which place did the {shape} flash?",
        ),
    ),
    "first": (
        "order",
        ("Which shape flashed first?", "What was the first shape to flash?", "Name the first shape on a white tile."),
    ),
    "last": (
        "order",
        ("Which shape flashed last?", "What was the last shape to flash?", "Name the last shape on a white tile."),
    ),
    "count": (
        "count",
        ("How many shapes flashed?", "How many white tiles flashed?", "Count the flashes. How many were there?"),
    ),
    "colour": (
        "persistent",
        (
            "What colour is the {shape} that stays?",
            "Which colour does the {shape} have?",
            "The {shape} is always there. What is its colour?",
        ),
    ),
    "place": (
        "place",
        (
            "Where is the {shape} now?",
            "In which place is the {shape} at the end?",
            "Where is the {shape} in the last frame?",
        ),
    ),
    "when": (
        TIME,
        (
            "At what second did the {shape} flash?",
            "At what second did the flash of the {shape} happen?",
            "The {shape} flashed on a white tile. At what second was it?",
        ),
    ),
}
PLAN = ("flash colour", "flash place", "first", "last", "count", "colour", "colour", "place")
"""The kinds asked about every clip, in this order; the two `colour` questions are about the two staying sprites."""

_CHOICES = [(kind, text) for kind, (_, texts) in KINDS.items() for text in texts]
TEMPLATES = tuple(text for _, text in _CHOICES)
TEMPLATE_FAMILY = tuple(KINDS[kind][0] for kind, _ in _CHOICES)
ANSWERS = (*COLOURS, *SHAPES, *NUMBERS, *PLACES)
_SHAPE_ANSWER = len(COLOURS)
_NUMBER_ANSWER = _SHAPE_ANSWER + len(SHAPES)
_PLACE_ANSWER = _NUMBER_ANSWER + len(NUMBERS)
_FIRST = {kind: next(i for i, (k, _) in enumerate(_CHOICES) if k == kind) for kind in KINDS}
"""The first template of each kind."""


@dataclass(frozen=True)
class Question:
    """A question about a clip, with its only correct answer."""

    family: str
    text: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """Questions about B scenes, each `(B, Q)`: the template, the shape it names (0 if none), the answer.

    An answer is an index into `ANSWERS`; larger values are frames of flashes, counted from the end of `ANSWERS`.
    """

    template: Tensor
    shape: Tensor
    answer: Tensor

    def questions(self, scene: int) -> tuple[Question, ...]:
        """Return the questions about one scene in plain English."""
        rows = zip(self.template[scene].tolist(), self.shape[scene].tolist(), self.answer[scene].tolist(), strict=True)
        return tuple(
            Question(TEMPLATE_FAMILY[template], TEMPLATES[template].format(shape=SHAPES[shape]), _worded(answer))
            for template, shape, answer in rows
        )

    def joined(self, other: Asked) -> Asked:
        """Return these questions followed by the others, about the same scenes."""
        pairs = ((self.template, other.template), (self.shape, other.shape), (self.answer, other.answer))
        return Asked(*(torch.cat(pair, dim=1) for pair in pairs))


def chosen_families(text: str, known: Collection[str]) -> list[str]:
    """Read the families of questions to ask, such as `"needle+order"`.

    Raises:
        UnknownNameError: a family is not among the known ones.
    """
    chosen = text.split("+")
    for family in chosen:
        if family not in known:
            raise unknown_name("family of questions", family, known)
    return chosen


def _worded(answer: int) -> str:
    """Return the answer in plain English; frames of a clip are a second apart."""
    return ANSWERS[answer] if answer < len(ANSWERS) else str(answer - len(ANSWERS))


def ask(scenes: Scenes, generator: torch.Generator) -> Asked:
    """Ask the questions of `PLAN` about each scene."""
    count, device = len(scenes.moving), scenes.moving.device

    def pick(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[:, None])[:, 0]

    def roll(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator, device=device)

    chosen = roll(60) % scenes.flash_count
    other = (chosen + 1 + roll(60) % (scenes.flash_count - 1).clamp(min=1)) % scenes.flash_count
    last = scenes.flash_count - 1
    nothing = torch.zeros_like(chosen)
    sprite = torch.where(scenes.moving, roll(STAYING + 1), STAYING)
    place = pick(scenes.sprite_cell()[:, -1], sprite)
    facts = (  # for each kind of PLAN: the shape asked about, the answer
        (pick(scenes.flash_shape, chosen), pick(scenes.flash_colour, chosen)),
        (pick(scenes.flash_shape, other), _PLACE_ANSWER + pick(scenes.flash_cell, other)),
        (nothing, _SHAPE_ANSWER + scenes.flash_shape[:, 0]),
        (nothing, _SHAPE_ANSWER + pick(scenes.flash_shape, last)),
        (nothing, _NUMBER_ANSWER + last),
        (scenes.sprite_shape[:, 0], scenes.sprite_colour[:, 0]),
        (scenes.sprite_shape[:, 1], scenes.sprite_colour[:, 1]),
        (pick(scenes.sprite_shape, sprite), _PLACE_ANSWER + place),
    )
    template = torch.stack([_FIRST[kind] + roll(len(KINDS[kind][1])) for kind in PLAN], dim=1)
    shape, answer = (torch.stack(column, dim=1) for column in zip(*facts, strict=True))
    return Asked(template, shape, answer)


def ask_when(scenes: Scenes, generator: torch.Generator, questions: int = 1) -> Asked:
    """Ask when some flashes of each scene occurred, with repetitions if there are too few."""
    count, device = len(scenes.moving), scenes.moving.device
    first = torch.randint(60, (count, 1), generator=generator, device=device)
    flash = (first + torch.arange(questions, device=device)) % scenes.flash_count[:, None]
    wording = torch.randint(len(KINDS["when"][1]), (count, questions), generator=generator, device=device)
    frame = scenes.flash_frame.gather(1, flash)
    return Asked(_FIRST["when"] + wording, scenes.flash_shape.gather(1, flash), len(ANSWERS) + frame)


assert FLASHES[1] <= len(NUMBERS)
