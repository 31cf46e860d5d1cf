"""Read video files, convert frames, and prepare model inputs."""

from .isolation import read_untrusted
from .prompt import prepare
from .reader import Frames, Seconds, Video, frame_rate, read_in_groups, read_video

__all__ = ["Frames", "Seconds", "Video", "frame_rate", "prepare", "read_in_groups", "read_untrusted", "read_video"]
