"""Bring back full frames for the questions that the entries kept leave in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kvpress_video.compressor import Compressor
from kvpress_video.errors import BudgetError, MissingInputError

from .rekv import ReKV

MARGIN = "focus_margin"
"""Name under which a model's configuration holds the calibrated margin."""


@dataclass(frozen=True)
class Focus(ReKV):
    """Answer from the entries of a base method, and retrieve full frames if the first token of the answer is uncertain.

    Doubt is a margin below `margin`: the difference of the two largest logits after the question. Frames are brought
    back as by `ReKV`.

    Attributes:
        base: see `ReKV`.
        share: see `ReKV`.
        margin: least margin without doubt, in logits; None for the one that is stored with the model.
    """

    base: Compressor | str = "standby"
    share: float = 0.75
    margin: float | None = 1.0

    source: ClassVar[str] = "after POINTS-Long, arXiv 2604.11627; the automatic switch is ours"
    year: ClassVar[int | None] = 2026
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin is not None and self.margin != self.margin:
            raise BudgetError(f"margin must be a number of logits, or None for the calibrated one, got {self.margin}.")

    def recall_margin(self, calibration: Mapping[str, Any]) -> float | None:
        """Return `margin`, or the calibrated one.

        Raises:
            MissingInputError: none is stored with the model.
        """
        if self.margin is not None:
            return self.margin
        if MARGIN not in calibration:
            raise MissingInputError(
                "Focus without a margin needs the model's: measure it with `kvpress-video probe margin`, and store it "
                "in the model's configuration or pass margin=…."
            )
        return float(calibration[MARGIN])
