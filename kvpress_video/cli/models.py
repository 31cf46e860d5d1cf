"""`kvpress-video models`: report which features and methods a model supports."""

from __future__ import annotations

import argparse

from .common import DONE, WRONG, load_model, model_options, quiet
from .names import check_model
from .parsers import Commands, add_command


def add(commands: Commands) -> None:
    """Add the command."""
    models = add_command(
        commands,
        "models",
        help="report which features and methods a model supports",
        description="Load a model and report which features and methods it supports. Models without a dedicated "
        "adapter are checked on a synthetic prompt.",
        examples=("", "Qwen/Qwen2.5-VL-7B-Instruct --dtype bfloat16"),
    )
    models.set_defaults(run=_models)
    model_options(models, positional=True)


def _models(options: argparse.Namespace) -> int:
    check_model(options.model)
    quiet()
    from rich.console import Console

    from ..self_check.inspection import inspect

    found = inspect(load_model(options)[0])
    console = Console(highlight=False, markup=False)
    console.print(str(found), soft_wrap=not console.is_terminal)
    return WRONG if found.unsupported else DONE
