"""A procedural video world: short mp4 clips, with questions that each detect one kind of information loss."""

from .clips import CAMERAS, HELD_OUT_SEED, Clip, load_clips, make_clip, make_clips
from .questions import FAMILIES, Question

__all__ = ["CAMERAS", "FAMILIES", "HELD_OUT_SEED", "Clip", "Question", "load_clips", "make_clip", "make_clips"]
