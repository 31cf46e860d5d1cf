"""lm-eval's command line with this package's model and tasks."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...errors import KVPressVideoError
from ..options import Options
from . import MODEL, TASKS

_USER_ERRORS = ("No tasks specified", "Tasks not found")
"""Beginnings of the ValueErrors that lm-eval raises for wrong arguments."""


def launch(arguments: Sequence[str]) -> None:
    """Run `lm-eval` with these arguments.

    By default the model is `kvpress-video`, with the batch size of sweeps instead of lm-eval's 1. The bundled tasks are
    added to those of `--include_path`.

    Raises:
        KVPressVideoError: lm-eval is not installed, or the model does not support the request.
    """
    from lm_eval._cli import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.utils import setup_logging

    setup_logging()
    with _as_command_line(arguments):
        cli = HarnessCLI()
        options = cli.parse_args()
        written: dict[str, Any] = {}
        if getattr(options, "config", None):
            written = EvaluatorConfig.load_yaml_config(options.config)
        _complete(options, written)
        try:
            cli.execute(options)
        except ValueError as error:
            if not str(error).startswith(_USER_ERRORS):
                raise
            raise KVPressVideoError(f"{error} `kvpress-video lm-eval ls tasks` lists them.") from error


def _complete(options: Namespace, written: dict[str, Any]) -> None:
    """Set the defaults that neither the command line nor its YAML sets."""
    included = getattr(options, "include_path", None) or written.get("include_path") or []
    options.include_path = [str(TASKS), *([included] if isinstance(included, str) else included)]
    if options.command == "run":
        options.model = options.model or written.get("model") or MODEL
        if options.model == MODEL and "batch_size" not in written:
            options.batch_size = getattr(options, "batch_size", Options.batch_size)


@contextmanager
def _as_command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Replace `sys.argv`, which lm-eval reads and changes."""
    before, sys.argv = sys.argv, ["lm-eval", *arguments]
    try:
        yield
    finally:
        sys.argv = before
