"""The command line: `kvpress-video COMMAND`, one file per command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from types import ModuleType

from ..errors import KVPressVideoError
from . import ask, compare, lm_eval, look, methods, report, results, run, sweep
from .common import DONE, INTERRUPTED, WRONG

COMMANDS: tuple[ModuleType, ...] = (sweep, results, report, look, compare, lm_eval, ask, run, methods)
GROUP = "kvpress_video.commands"


def installed_commands() -> list[ModuleType]:
    """Load the commands that installed packages declare in the entry-point group `kvpress_video.commands`."""
    return [point.load() for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0 for success, 1 if a cell of a sweep failed or a comparison is red, 2 for an error, 130 after
        Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="kvpress-video", description="KV-cache compression for video.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (*COMMANDS, *installed_commands()):
        command.add(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KVPressVideoError as error:
        print(f"kvpress-video: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("kvpress-video: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        print(f"kvpress-video: {error}", file=sys.stderr)
        return WRONG
    return code
