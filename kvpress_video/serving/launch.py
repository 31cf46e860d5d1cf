"""Run an unmodified command with its models compressed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from ..budget import Budget
from ..compression import compress
from ..errors import UnknownNameError, UnsupportedModelError
from .deployment import VARIABLE

STARTUP = Path(__file__).parent / "startup"
"""Folder with a `sitecustomize.py`, which every Python process with this folder on its path runs at startup."""


def missing_decoder(command: Sequence[str]) -> str | None:
    """Return a warning if the server needs a video decoder that is not installed, else None.

    Args:
        command: program and arguments.
    """
    served = Path(command[0]).name == "transformers" and command[1:2] == ["serve"]
    if not served or find_spec("torchcodec") is not None:
        return None
    return (
        "transformers serve reads videos with torchcodec, which is not installed here: requests with videos will fail. "
        "Install the torchcodec that belongs to your torch, or serve the model with kv.patch() in code of your own."
    )


def launch(command: Sequence[str], method: str, budget: str, **options: Any) -> NoReturn:
    """Replace this process with `command`, and compress every supported model that it or its children load.

    Args:
        command: program and arguments.
        method, budget, **options: as in `compress`.

    Raises:
        BudgetError: the budget cannot be read.
        UnknownNameError: unknown method, setting or option, or the command cannot be started.
    """
    if not command:
        raise UnknownNameError("There is no command to run: write it after --, such as -- python server.py.")
    if shutil.which(command[0]) is None:
        raise UnknownNameError(f"There is no command {command[0]!r}: check its spelling and PATH.")
    with suppress(UnsupportedModelError):  # compress() checks the settings before the model, which is None here
        compress(None, method, budget, **options)
    if note := missing_decoder(command):
        print(f"kvpress-video: {note}", file=sys.stderr)
    settings = {"method": method, "budget": Budget.parse(budget).exact, **options}
    path = os.pathsep.join(filter(None, (str(STARTUP), os.environ.get("PYTHONPATH"))))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), {**os.environ, VARIABLE: json.dumps(settings), "PYTHONPATH": path})
    except OSError as error:
        raise UnknownNameError(f"Cannot start {command[0]!r}: {error.strerror}.") from error
