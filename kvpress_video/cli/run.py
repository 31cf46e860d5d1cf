"""`kvpress-video run`: run a command with compression on the models that it loads."""

from __future__ import annotations

import argparse

from .common import cache_options
from .names import check_methods
from .parsers import Commands, add_command


def add(commands: Commands) -> None:
    """Add the command."""
    run = add_command(
        commands,
        "run",
        help="run a command with compression on the models that it loads",
        usage="%(prog)s --method METHOD --budget BUDGET [OPTION …] -- COMMAND …",
        description="Run an unmodified command, such as a server: every supported model that it loads is compressed.",
        examples=("--method infinipot-v --budget 6144 -- python server.py",),
        note="transformers serve needs torchcodec to read videos: see docs/deployments.md.",
    )
    run.set_defaults(run=_run)
    run.add_argument("--method", required=True, help="name or name:setting=value,…")
    run.add_argument("--budget", required=True, help="25%%, 6144 (visual entries) or 256MiB")
    run.add_argument("--prefill", metavar="HOW", help="auto, chunked, split or whole (default: auto)")
    run.add_argument("--chunk", type=int, metavar="N", help="visual tokens per chunk (default: a third of the budget)")
    cache_options(run)
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="the program and its arguments")


def _run(options: argparse.Namespace) -> int:
    check_methods(options.method)
    from ..serving.launch import launch

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    names = ("stage", "prefill", "chunk", "positions", "labels", "quantize")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    launch(command, options.method, options.budget, **chosen)
