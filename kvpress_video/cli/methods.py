"""`kvpress-video methods`: list the installed methods."""

from __future__ import annotations

import argparse

from .common import DONE, Commands


def add(commands: Commands) -> None:
    """Add the command."""
    methods = commands.add_parser("methods", help="list the installed methods and their settings")
    methods.set_defaults(run=_methods)


def _methods(options: argparse.Namespace) -> int:
    from ..compressor.registry import method_names

    for name in method_names():
        try:
            lines = _described(name)
        except Exception as error:
            lines = [f"cannot be loaded: {error}"]
        print("\n    ".join([name, *lines]))
    return DONE


def _described(name: str) -> list[str]:
    from dataclasses import MISSING, fields

    from ..compressor.registry import method_class

    found = method_class(name)
    settings = [f.name if f.default is MISSING else f"{f.name}={f.default!r}" for f in fields(found)]
    return [
        next(iter((found.__doc__ or "").strip().splitlines()), "no description"),
        f"settings: {', '.join(settings) or 'none'}; stages: {', '.join(found.stages)}",
        *([f"presets: {', '.join(f'{name}:{preset}' for preset in found.presets)}"] if found.presets else []),
        *([f"source: {found.source}"] if found.source else []),
    ]
