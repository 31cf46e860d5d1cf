"""The command line: `kvpress-video COMMAND`, one file per command.

Only the standard library is imported here, so that Ctrl-C is handled before anything large is.
"""

from __future__ import annotations

from collections.abc import Sequence

from .interrupts import end, ending_at_once, replaceable

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: command-line arguments; by default those of this process, which then ends with the command.

    Returns:
        The exit code: 0 for success, 1 if a cell of a sweep failed or a comparison is red, 2 for an error, 130 after
        Ctrl-C. SIGTERM ends the process by that signal, once the command has cleaned up.
    """
    with ending_at_once():
        from . import program
    code = program.main(arguments)
    if arguments is None and replaceable():
        from signal import SIGINT, signal

        signal(SIGINT, end)  # nothing is left to interrupt but the end of the interpreter
    return code
