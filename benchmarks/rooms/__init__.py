"""Clips of several rooms with features of real footage: cuts, movers, screens, lighting, signs, lookalikes."""

from .clips import CAMERAS, make_clip, make_clips
from .difficulty import LEVELS, Difficulty
from .questions import FAMILIES

__all__ = ["CAMERAS", "FAMILIES", "LEVELS", "Difficulty", "make_clip", "make_clips"]
