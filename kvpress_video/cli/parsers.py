"""Parsers of commands: each has a description, and an example at the end of its help."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class HelpFormatter(argparse.HelpFormatter):
    """Wraps text by paragraph, and leaves indented paragraphs (examples) unchanged."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = [
            part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        ]
        return textwrap.indent("\n\n".join(filled), indent)


def add_command(
    commands: Commands, name: str, help: str, description: str, examples: tuple[str, ...], note: str = "", **how: Any
) -> argparse.ArgumentParser:
    """Add the parser of a command.

    Args:
        commands: commands to add it to.
        name: name of the command.
        help: one line for the list of commands.
        description: description of the command, in one or more paragraphs.
        examples: calls of it, without `kvpress-video`.
        note: text after the examples.
        **how: further arguments of `ArgumentParser`.
    """
    calls = "\n".join(f"  kvpress-video {name} {example}".rstrip() for example in examples)
    heading = "Example:" if len(examples) == 1 else "Examples:"
    epilog = "\n\n".join(filter(None, (heading, calls, note)))
    return commands.add_parser(
        name, help=help, description=description, epilog=epilog, formatter_class=HelpFormatter, **how
    )


def wide_option(parser: argparse._ActionsContainer, rest: str) -> None:
    """Add `--wide`, which shows all columns of a table.

    Args:
        parser: parser to add it to.
        rest: the additional columns.
    """
    parser.add_argument("--wide", action="store_true", help=f"show {rest} too, regardless of the terminal's width")
