"""Documents and scores of the bundled benchmark for lm-eval."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import Dataset
from kvpress_video.benchmarks.world.benchmark import World

from ...errors import BenchmarkError, unknown_name
from ...sweep.benchmark import same_words

CLIPS = "KVPRESS_VIDEO_CLIPS"
"""Environment variable with the folder of the clips."""
_OPTIONS = ("clips", "clip_frames", "clip_seed", "clip_folder")


def load(
    family: str,
    camera: str,
    clips: int = World.count,
    clip_frames: int = World.frames,
    clip_seed: int = 0,
    clip_folder: str | Path | None = None,
    **others: Any,
) -> dict[str, Dataset]:
    """Load the questions of one family about the clips of one camera, and make missing clips.

    Args:
        family, camera: family of the questions, and camera of the clips.
        clips: number of clips, both cameras together.
        clip_frames: frames of each clip, as the model counts them.
        clip_seed: seed of the clips.
        clip_folder: folder of the clips; by default `$KVPRESS_VIDEO_CLIPS`, else a folder in the user's cache.
        **others: ignored; lm-eval passes the metadata of all tasks and the arguments of the model.

    Raises:
        UnknownNameError: one of the others looks like a misspelt argument of this function.
        BenchmarkError: clips cannot be made, or none has this camera.
    """
    for name in others:
        if name.startswith("clip"):
            raise unknown_name("metadata", name, _OPTIONS)
    folder = Path(clip_folder) if clip_folder else clips_folder()
    documents = [
        {
            "clip": clip.name,
            "video": str(clip.path.resolve()),
            "question": question.text,
            "answer": question.expected,
            "family": question.task,
            "camera": clip.group,
        }
        for clip in World(clips, clip_frames).clips(clip_seed, folder)
        if clip.group == camera
        for question in clip.questions
        if question.task == family
    ]
    if not documents:
        raise BenchmarkError(f"clips={clips} leaves no clip with a {camera} camera: ask for at least 2.")
    return {"test": Dataset.from_list(documents)}


def score(document: dict[str, str], answers: list[str]) -> dict[str, float]:
    """Score an answer as sweeps do."""
    return {"exact_match": float(same_words(answers[0], document["answer"]))}


def clips_folder() -> Path:
    """Return the default folder of the clips."""
    named = os.environ.get(CLIPS)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "kvpress-video" / "world"
