"""Commands of installed packages, found in the entry-point group `kvpress_video.commands`."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

from ..errors import UnknownNameError
from ..utils.entry_points import is_own, package_of
from .parsers import Commands

GROUP = "kvpress_video.commands"


def add_installed(commands: Commands) -> None:
    """Add the commands of installed packages. Commands that cannot be loaded raise an error when called.

    Built-in names take precedence, then the alphabetically first package.
    """
    for point in sorted(
        entry_points(group=GROUP), key=lambda point: (not is_own(point), point.name, package_of(point))
    ):
        if point.name in commands.choices:
            print(
                f"kvpress-video: {package_of(point)} declares the command {point.name!r}, which already exists: "
                f"{point.value} is not used.",
                file=sys.stderr,
            )
            continue
        taken = dict(commands.choices)
        try:
            point.load().add(commands)
        except (Exception, SystemExit) as error:
            for name in set(commands.choices) - set(taken):
                del commands.choices[name]
            _add_broken(commands, point, f"{type(error).__name__}: {error}")
        commands.choices.update(taken)


def _add_broken(commands: Commands, point: EntryPoint, reason: str) -> None:
    told = f"cannot be loaded from {package_of(point)}"
    broken = commands.add_parser(point.name, help=told, add_help=False, prefix_chars="\0")
    broken.add_argument("arguments", nargs=argparse.REMAINDER)
    broken.set_defaults(run=partial(_explain, point, reason))


def _explain(point: EntryPoint, reason: str, options: argparse.Namespace) -> NoReturn:
    raise UnknownNameError(
        f"The command {point.name!r} of {package_of(point)} ({point.value}) cannot be loaded: {reason}. Update or "
        "uninstall that package."
    )
