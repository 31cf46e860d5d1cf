"""The course of a training: the schedule of clip lengths and the learning rate."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from ..world.clips import CAMERAS
from .worlds import TrainingWorld

CONVERSATIONS = 0.4
"""Share of batches in which the questions of a clip are the turns of one conversation."""
WARM_UP = 200
"""Steps of warm-up to the full learning rate, with new moments."""


class Course:
    """Progress of the training: the current length of clips, and the position in the schedule."""

    def __init__(
        self,
        world: TrainingWorld,
        frames_per_step: int,
        clips_per_step: int = 256,
        longest: int = 512,
        patience: int = 40,
    ) -> None:
        self._frames, self._clips, self._patience, self._mix = frames_per_step, clips_per_step, patience, world.mix
        self._stages = [stage for stage in world.stages if stage <= longest]
        self.stage = 0
        self.weakest: Sequence[int] = ()
        self.reports_in_stage = 0
        self.steps = 0
        self.frames = 0
        self.began = 0
        self.seconds = 0.0

    def clips(self, frames: int) -> int:
        """Number of clips in a batch, even."""
        return max(2, min(self._frames // frames, self._clips) // 2 * 2)

    def draw(self, dice: random.Random) -> int:
        """Draw the length of the next clips: every other time that of the current stage, until the last stage."""
        if self.stage < len(self._stages) - 1 and dice.random() < 0.5:
            return self._stages[self.stage]
        lengths = [length for length in self._mix if length <= self._stages[self.stage]]
        return dice.choices(lengths, [self._mix[length] for length in lengths])[0]

    def learn(self, accuracy: dict[int, dict[str, dict[str, float]]], kinds: Sequence[str]) -> None:
        """Record the weakest family, and advance to longer clips once most answers in every family are correct.

        Args:
            accuracy: accuracy by frames, camera and family of questions; only the current length counts.
            kinds: family of each question of the plan.
        """
        frames = self._stages[self.stage]
        if frames not in accuracy:
            return
        still = accuracy[frames][CAMERAS[0]]
        worst = min(still, key=still.__getitem__)
        self.weakest = [number for number, family in enumerate(kinds) if family == worst]
        if self.stage == len(self._stages) - 1:
            return
        self.reports_in_stage += 1
        scores = [score for camera in accuracy[frames].values() for score in camera.values()]
        learnt = sum(scores) / len(scores) > 0.8 and min(scores) > 0.5
        if learnt or self.reports_in_stage > self._patience:
            self.stage += 1
            self.reports_in_stage = 0

    def rate(self, total: float) -> float:
        """Return the learning rate over its maximum: a short warm-up, then a cosine over `total` seconds to 2%."""
        progress = min(self.seconds / total, 1.0)
        warm = min(1.0, (self.steps - self.began + 1) / WARM_UP)
        return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)

    def warm_up(self) -> None:
        """Restart the warm-up, because the optimizer's moments are new."""
        self.began = self.steps

    def state(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def restore(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.stage = min(self.stage, len(self._stages) - 1)
