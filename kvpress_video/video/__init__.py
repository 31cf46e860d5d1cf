"""Videos: reading files, frames as arrays, prompts for processors."""

from .prompt import prepare
from .reader import Frames, Seconds, Video, frame_rate, read_in_groups, read_video

__all__ = ["Frames", "Seconds", "Video", "frame_rate", "prepare", "read_in_groups", "read_video"]
