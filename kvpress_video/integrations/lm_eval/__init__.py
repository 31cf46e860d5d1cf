"""lm-evaluation-harness: the model `kvpress-video`, registered on import, and the bundled benchmark as tasks."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import KVPressVideoError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

MODEL = "kvpress-video"
TASKS = Path(__file__).with_name("tasks")
"""Folder of the tasks' YAML files, for `--include_path`."""


def register() -> None:
    """Register the model in lm-eval; calling it again has no effect.

    Raises:
        KVPressVideoError: lm-eval is not installed.
    """
    try:
        import_module("lm_eval.models")  # first, since lm-eval fills its registry only while it is empty
    except ImportError as error:
        raise KVPressVideoError(f"This needs lm-eval ({error}): pip install 'kvpress-video[lm-eval]'.") from error
    import_module(".model", __name__)


def task_manager(*include_path: str | Path, include_defaults: bool = True, **metadata: Any) -> TaskManager:
    """Make an lm-eval task manager with the bundled tasks, the group `kvpress_video_world`.

    Args:
        include_path: folders with more tasks.
        include_defaults: whether to include lm-eval's own tasks; indexing them takes seconds.
        **metadata: metadata of the tasks: `clips`, `clip_frames`, `clip_seed`, `clip_folder`.
    """
    from lm_eval.tasks import TaskManager

    folders: list[str | Path] = [TASKS, *include_path]
    return TaskManager(include_path=folders, include_defaults=include_defaults, metadata=metadata)


register()
