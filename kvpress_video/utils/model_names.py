"""Names of models as text: bundled ones, and the settings that may follow a name."""

from __future__ import annotations

from pathlib import Path

from ..errors import unknown_name

BUNDLED = "bundled"
BUNDLED_FOLDERS = {"qwen2_5_vl": "bundled", "qwen3_vl": "bundled_qwen3_vl", "rooms": "bundled_rooms"}
"""Folders in `kvpress_video/data`, by the name of their model."""
BUNDLED_NAMES = {BUNDLED: "qwen2_5_vl", **{f"{BUNDLED}-{name}": name for name in BUNDLED_FOLDERS}}
"""Bundled models by the names that stand for them among folders and hub names."""
DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
MODEL_SETTINGS = ("device", "dtype", "attention", "device_map")
"""Settings that `load` takes, and that may follow a model's name in a text."""


def check_bundled(name: str) -> None:
    """Check a name that begins like those of the bundled models; any other may be a folder or on the hub.

    Raises:
        UnknownNameError: there is no such bundled model, nor a folder of that name.
    """
    if name.startswith(BUNDLED) and name not in BUNDLED_NAMES and "/" not in name and not Path(name).exists():
        raise unknown_name("bundled model", name, BUNDLED_NAMES)


def check_setting(setting: str) -> None:
    """Check the name of a setting.

    Raises:
        UnknownNameError: models have no such setting.
    """
    if setting not in MODEL_SETTINGS:
        raise unknown_name("setting of a model", setting, MODEL_SETTINGS)
