"""`kvpress-video methods`: list the installed methods."""

from __future__ import annotations

import argparse

from .common import DONE, Commands


def add(commands: Commands) -> None:
    """Add the command."""
    methods = commands.add_parser("methods", help="list the installed methods and their settings")
    methods.set_defaults(run=_methods)


def _methods(options: argparse.Namespace) -> int:
    from dataclasses import MISSING, fields

    from ..compressor.registry import method_class, method_names

    for name in method_names():
        try:
            found = method_class(name)
        except Exception as error:
            print(f"{name}\n    cannot be loaded: {error}")
            continue
        settings = [f"{f.name}" if f.default is MISSING else f"{f.name}={f.default!r}" for f in fields(found)]
        print(f"{name}\n    {next(iter((found.__doc__ or '').strip().splitlines()), 'no description')}")
        print(f"    settings: {', '.join(settings) or 'none'}; stages: {', '.join(found.stages)}")
        if found.source:
            print(f"    source: {found.source}")
    return DONE
