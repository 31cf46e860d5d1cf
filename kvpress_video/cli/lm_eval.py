"""`kvpress-video lm-eval`: lm-evaluation-harness with this package's model and tasks."""

from __future__ import annotations

import argparse

from .common import DONE, quiet
from .parsers import Commands


def add(commands: Commands) -> None:
    """Add the command. All arguments are passed to lm-eval, so no prefix character marks an option here."""
    lm_eval = commands.add_parser(
        "lm-eval", help="run lm-evaluation-harness with the model kvpress-video", add_help=False, prefix_chars="\0"
    )
    lm_eval.set_defaults(run=_lm_eval)
    lm_eval.add_argument("arguments", nargs=argparse.REMAINDER)


def _lm_eval(options: argparse.Namespace) -> int:
    quiet()
    from ..integrations.lm_eval.launcher import launch

    launch(options.arguments)
    return DONE
