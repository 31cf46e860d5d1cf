"""Parse the command line, run its command, and turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType

from ..errors import KVPressVideoError
from . import ask, compare, lm_eval, look, methods, models, report, results, run, serve, sweep, tune
from .common import DONE, WRONG
from .interrupts import INTERRUPTED, Interrupts, ending_at_once
from .parsers import HelpFormatter
from .plug_ins import add_installed
from .warning_lines import warnings_as_lines

COMMANDS: tuple[ModuleType, ...] = (
    *(sweep, tune, results, report, look, compare, lm_eval, ask, run, serve, methods, models),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: command-line arguments; those of this process by default.

    Returns:
        The exit code.
    """
    _prepare_output()
    interrupts = Interrupts()
    try:
        with ending_at_once():
            options = _parse(arguments)
        with interrupts.watched(), warnings_as_lines():
            code: int = options.run(options)
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        return DONE
    except KeyboardInterrupt:
        print(interrupts.message, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        said = _described(error)
        if said is None and not interrupts.received:
            raise
        if interrupts.received:
            print(interrupts.message, file=sys.stderr)
        if said is not None:
            print(f"kvpress-video: {said}", file=sys.stderr)
        return INTERRUPTED if interrupts.received else WRONG
    finally:
        _end_output()
        interrupts.end_by_sigterm()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kvpress-video",
        description="Training-free KV-cache compression for video, on HuggingFace multimodal LLMs.",
        epilog="Examples:\n\n"
        '  kvpress-video ask clip.mp4 "What happens?" --method infinipot-v --budget 25%\n'
        "  kvpress-video sweep --methods full,infinipot-v,recent --budgets 25%,6.25%\n\n"
        "kvpress-video COMMAND --help describes a command.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kvpress-video {version('kvpress-video')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="called")
    for command in COMMANDS:
        command.add(commands)
    add_installed(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands.choices[options.called].error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _described(error: Exception) -> str | None:
    """Describe an error that the user can act on; return None for any other."""
    if isinstance(error, (KVPressVideoError, OSError)):
        return str(error)
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in str(error):
        return f"Out of memory: take fewer frames or a smaller budget, model or batch. {error}".strip()
    return None


def _prepare_output() -> None:
    """Escape characters that the terminal cannot encode, and discard output to closed streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end_output() -> None:
    """Discard output that stdout cannot take, so that the interpreter does not retry at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
