"""lm-evaluation-harness: the model `kvpress-video`, registered by this import, and the bundled benchmark as tasks."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import KVPressVideoError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

MODEL = "kvpress-video"
TASKS = Path(__file__).with_name("tasks")
"""The folder of the tasks' YAML, for `--include_path`."""


def register() -> None:
    """Make the model known to lm-eval by its name; again does no harm.

    Raises:
        KVPressVideoError: lm-eval is not installed.
    """
    try:
        import_module("lm_eval.models")  # lm-eval fills its registry only as long as that is empty
    except ImportError as error:
        raise KVPressVideoError(f"This needs lm-eval ({error}): pip install 'kvpress-video[lm-eval]'.") from error
    import_module(".model", __name__)


def task_manager(*include_path: str | Path, include_defaults: bool = True, **metadata: Any) -> TaskManager:
    """lm-eval's task manager with the bundled tasks: the group `kvpress_video_world` and what is in it.

    Args:
        include_path: folders with more tasks.
        include_defaults: whether lm-eval's own tasks are known too; looking through them takes seconds.
        **metadata: of the tasks: `clips`, `clip_frames`, `clip_seed`, `clip_folder`, as in `world.load`.
    """
    from lm_eval.tasks import TaskManager

    folders: list[str | Path] = [TASKS, *include_path]
    return TaskManager(include_path=folders, include_defaults=include_defaults, metadata=metadata)


register()
