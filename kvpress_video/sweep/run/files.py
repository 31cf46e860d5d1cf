"""States of the local files that a sweep's answers depend on: videos and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...utils.file_state import FileState, file_state
from ...utils.named_settings import parse
from ..benchmark import Clip
from ..cells import checkpoint_of, suite_of

_OF_CHECKPOINTS = (".json", ".safetensors", ".bin", ".pt", ".model", ".txt", ".jinja", ".py")


def states_of(
    clips: Mapping[tuple[str, int], Sequence[Clip]], models: Iterable[str]
) -> dict[str, dict[str, FileState]]:
    """Record the state of every video and of the files of every model folder, by suite or model and by name."""
    videos = {
        suite_of(*suite): _states((clip.name, Path(clip.path)) for clip in found) for suite, found in clips.items()
    }
    checkpoints = {checkpoint_of(model): _states(_checkpoint(model)) for model in models}
    return {name: states for name, states in {**videos, **checkpoints}.items() if states}


def _checkpoint(model: str) -> list[tuple[str, Path]]:
    folder = Path(parse(model)[0]).expanduser()
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [(file.name, file) for file in files if file.suffix in _OF_CHECKPOINTS and file.is_file()]


def _states(files: Iterable[tuple[str, Path]]) -> dict[str, FileState]:
    """Record the states of the files that can be read; the worker reports the problems of the others."""
    known: dict[Path, FileState] = {}
    found = {}
    for name, path in files:
        with suppress(OSError):
            found[name] = known[path] if path in known else known.setdefault(path, file_state(path))
    return found
