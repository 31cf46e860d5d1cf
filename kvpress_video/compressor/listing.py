"""The installed methods as rows: their sources, functions and fidelity."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from inspect import cleandoc

from ..errors import KVPressVideoError
from .base import Compressor
from .registry import make_method, method_class, method_names

_COMMENT = re.compile(r"^<!-- .* -->\n", re.MULTILINE)
"""Markers of the generated parts of a card."""


@dataclass(frozen=True)
class MethodInfo:
    """One installed method.

    Attributes:
        name: name for `compress()`.
        summary: first line of its documentation.
        source: publication or origin.
        year: year of the source, None if it has none.
        family: family of the idea, such as "attention" or "redundancy".
        fidelity: "exact", "mechanism", "analogy" or "ours", see `FIDELITIES`; empty if unspecified.
        stages: supported stages, "cache" and "input".
        needs: inputs captured with its default settings, sorted.
        settings: its settings with their defaults, as text.
        presets: named sets of settings, `"name:preset"`.
        broken: why it cannot be loaded; empty if it can.
    """

    name: str
    summary: str = ""
    source: str = ""
    year: int | None = None
    family: str = ""
    fidelity: str = ""
    stages: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    broken: str = ""


def list_methods() -> list[MethodInfo]:
    """List all installed methods, including those of other packages, by name.

    Methods whose package is broken are listed with the reason. `pandas.DataFrame(kv.list_methods())` makes a table.
    """
    return [_described(name) for name in method_names()]


def method_card(name: str) -> str:
    """Return the card of a method in Markdown: `cards/NAME.md` in its package, or else the docstring of its class.

    Raises:
        UnknownNameError: no installed method has that name (the nearest one is suggested), or its package is broken.
    """
    found = method_class(name)
    package = found.__module__.rpartition(".")[0]
    card = files(package) / "cards" / f"{name}.md" if package else None
    if card is not None and card.is_file():
        return _COMMENT.sub("", card.read_text(encoding="utf-8"))
    parts = [f"# {name}", cleandoc(found.__doc__ or "No description.")]
    parts += [f"**Settings.** {', '.join(_settings(found)) or 'None'}."]
    parts += [f"**Source.** {found.source}."] if found.source else []
    return "\n\n".join(parts) + "\n"


def _described(name: str) -> MethodInfo:
    try:
        found = method_class(name)
        required = any(f.init and f.default is MISSING and f.default_factory is MISSING for f in fields(found))
        needs = found.needs if required else make_method(name).needs  # a wrapper has those of its base
    except KVPressVideoError as error:
        return MethodInfo(name, broken=f"cannot be loaded: {error}")
    return MethodInfo(
        name,
        next(iter((found.__doc__ or "").strip().splitlines()), ""),
        found.source,
        found.year,
        found.family,
        found.fidelity,
        tuple(found.stages),
        tuple(sorted(needs)),
        _settings(found),
        tuple(found.presets),
    )


def _settings(found: type[Compressor]) -> tuple[str, ...]:
    return tuple(f.name if f.default is MISSING else f"{f.name}={f.default!r}" for f in fields(found))
