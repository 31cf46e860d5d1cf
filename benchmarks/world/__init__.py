"""A procedural video world: short clips as mp4 files, and questions that separate the failures of compression."""

from .clips import CAMERAS, HELD_OUT_SEED, Clip, load_clips, make_clip, make_clips
from .questions import FAMILIES, Question

__all__ = ["CAMERAS", "FAMILIES", "HELD_OUT_SEED", "Clip", "Question", "load_clips", "make_clip", "make_clips"]
