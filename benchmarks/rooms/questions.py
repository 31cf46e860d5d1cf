"""Questions about clips of rooms, as integers (for training on a device) and in plain English."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..world.questions import Question
from ..world.shapes import COLOURS, PLACES, SHAPES
from .scene import DURATIONS, Scenes
from .signs import LETTERS
from .tables import table

FAMILIES = (
    "needle",
    "order",
    "count",
    "when",
    "duration",
    "persistent",
    "detail",
    "place",
    "reidentification",
    "scene",
)
"""needle: colour or place of a shape on a white tile for one frame; order: the first or last of them; count: how many;
when: the quarter of the clip with one of them; duration: seconds for which the brown tile was there; persistent: colour
of a shape that stays in its room; detail: letter on a sign; place: where an object is in the last frame;
reidentification: whether the shape on the striped tile at the end is that of the first; scene: the shape that stays in
the first or second room."""

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "flash colour": (
        "needle",
        (
            "What colour was the {name} on the white tile?",
            "The {name} flashed on a white tile. What was its colour?",
            "Which colour did the {name} on the white tile have?",
        ),
    ),
    "flash place": (
        "needle",
        (
            "Where was the {name} on the white tile?",
            "The {name} flashed on a white tile. Where was it?",
            "In which place was the {name} on the white tile?",
        ),
    ),
    "first": (
        "order",
        ("Which shape was first on a white tile?", "Name the first shape on a white tile."),
    ),
    "last": (
        "order",
        ("Which shape was last on a white tile?", "Name the last shape on a white tile."),
    ),
    "count": (
        "count",
        ("How many white tiles flashed?", "How many shapes were on a white tile?"),
    ),
    "when": (
        "when",
        (
            "In which quarter of the video was the {name} on the white tile?",
            "In which quarter did the {name} on the white tile flash?",
        ),
    ),
    "duration": (
        "duration",
        ("For how many seconds was the brown tile there?", "How many seconds did the brown tile stay?"),
    ),
    "colour": (
        "persistent",
        (
            "What colour is the {name} that stays in its room?",
            "The {name} stays in its room. What is its colour?",
        ),
    ),
    "letter": (
        "detail",
        ("Which letter is on the {name} sign?", "What does the {name} sign say?"),
    ),
    "place": (
        "place",
        ("Where is the hopping {name} now?", "Where is the {name} that hops in the last frame?"),
    ),
    "seen before": (
        "reidentification",
        (
            "Is the shape on the last striped tile that of the first: yes, no or changed?",
            "Was the shape on the striped tile there before: yes, no or changed?",
        ),
    ),
    "first scene": (
        "scene",
        ("Which shape stays in the first room?", "Name the shape that stays in the first room."),
    ),
    "second scene": (
        "scene",
        ("Which shape stays in the second room?", "Name the shape that stays in the second room."),
    ),
}
PLAN = tuple(KINDS)
"""The kinds asked about every clip, in this order."""

_CHOICES = [(kind, text) for kind, (_, texts) in KINDS.items() for text in texts]
TEMPLATES = tuple(text for _, text in _CHOICES)
TEMPLATE_FAMILY = tuple(KINDS[kind][0] for kind, _ in _CHOICES)
_FIRST = {kind: next(i for i, (k, _) in enumerate(_CHOICES) if k == kind) for kind in KINDS}
"""The first template of each kind."""

NAMES = (*SHAPES, *COLOURS)
"""Names that occur in questions."""
NUMBERS = ("two", "three", "four", "five", "six", "seven")
LONG = ("eight", "sixteen")
QUARTERS = ("first", "second", "third", "fourth")
COMPARED = ("yes", "no", "changed")
"""Answers about the visitor, in the order of `SAME`, `OTHER` and `CHANGED`."""
ANSWERS = (*COLOURS, *SHAPES, *PLACES, *LETTERS, *NUMBERS, *LONG, *QUARTERS, *COMPARED)
_DURATION_WORDS = ("two", "four", "eight", "sixteen")
assert len(DURATIONS) == len(_DURATION_WORDS)


@dataclass(frozen=True)
class Asked:
    """Questions about B clips, each `(B, Q)`: the template, the name in it (0 if none), and the index of the answer."""

    template: Tensor
    name: Tensor
    answer: Tensor

    def questions(self, clip: int) -> tuple[Question, ...]:
        """Return the questions about one clip in plain English."""
        rows = zip(self.template[clip].tolist(), self.name[clip].tolist(), self.answer[clip].tolist(), strict=True)
        return tuple(
            Question(TEMPLATE_FAMILY[template], TEMPLATES[template].format(name=NAMES[name]), ANSWERS[answer])
            for template, name, answer in rows
        )


def ask(scenes: Scenes, generator: torch.Generator) -> Asked:
    """Ask the questions of `PLAN` about each clip."""
    count, device = len(scenes.moving), scenes.moving.device
    shapes, places, letters = (ANSWERS.index(part[0]) for part in (SHAPES, PLACES, LETTERS))
    numbers, quarters, compared = (ANSWERS.index(part[0]) for part in (NUMBERS, QUARTERS, COMPARED))
    durations = table(tuple(ANSWERS.index(word) for word in _DURATION_WORDS), device)

    def pick(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(1, index[:, None])[:, 0]

    def roll(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator, device=device)

    def one_of(allowed: Tensor) -> Tensor:
        """Draw one allowed index per row of (B, N) bool."""
        return (torch.rand(allowed.shape, generator=generator, device=device) * allowed).argmax(1)

    flashes = scenes.flash_frame < scenes.frames
    coloured, placed, timed = (one_of(flashes) for _ in range(3))
    last = scenes.flash_count - 1
    seen = scenes.seen()
    resident, sign = one_of(seen), one_of(seen)
    quarter = 4 * pick(scenes.flash_frame, timed) // scenes.frames
    nothing = torch.zeros_like(last)
    facts = (  # for each kind of PLAN: the name and the answer
        (pick(scenes.flash_shape, coloured), pick(scenes.flash_colour, coloured)),
        (pick(scenes.flash_shape, placed), places + pick(scenes.flash_cell, placed)),
        (nothing, shapes + scenes.flash_shape[:, 0]),
        (nothing, shapes + pick(scenes.flash_shape, last)),
        (nothing, numbers + scenes.flash_count - 2),
        (pick(scenes.flash_shape, timed), quarters + quarter),
        (nothing, durations[scenes.duration]),
        (pick(scenes.resident_shape, resident), pick(scenes.resident_colour, resident)),
        (len(SHAPES) + pick(scenes.sign_colour, sign), letters + pick(scenes.sign_letter, sign)),
        (scenes.hopper_shape, places + scenes.hopper_cell[:, -1]),
        (nothing, compared + scenes.visitor),
        (nothing, shapes + scenes.resident_shape[:, 0]),
        (nothing, shapes + scenes.resident_shape[:, 1]),
    )
    template = torch.stack([_FIRST[kind] + roll(len(KINDS[kind][1])) for kind in PLAN], dim=1)
    name, answer = (torch.stack(column, dim=1) for column in zip(*facts, strict=True))
    return Asked(template, name, answer)
