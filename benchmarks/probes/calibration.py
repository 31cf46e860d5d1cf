"""Store calibrated values in the configuration of a model, where compression reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kvpress_video.errors import BenchmarkError
from kvpress_video.utils.files import atomic_write


def store(folder: Path, name: str, value: Any) -> None:
    """Write a calibrated value into the configuration of a model's folder.

    Raises:
        BenchmarkError: the folder holds no configuration.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise BenchmarkError(f"{folder} has no config.json to store {name} in: save the model there first.")
    config = json.loads(file.read_text())
    config.setdefault("kvpress_video", {})[name] = value
    with atomic_write(file) as scratch:
        scratch.write_text(json.dumps(config, indent=2) + "\n")
