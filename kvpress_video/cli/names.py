"""Check names in options before anything large is imported, so that a misspelt one is reported at once."""

from __future__ import annotations

from ..utils.entry_points import BENCHMARKS, METHODS, EntryPoints
from ..utils.model_names import BUNDLED, check_bundled, check_setting
from ..utils.named_settings import parse, split_list


def check_methods(text: str | None) -> None:
    """Check the names in a list of methods; their settings are checked where the methods are made.

    Raises:
        UnknownNameError: no installed package declares a method of that name.
    """
    _check(METHODS, text)


def check_benchmarks(text: str | None) -> None:
    """Check the names in a list of benchmarks, as `check_methods` does.

    Raises:
        UnknownNameError: no installed package declares a benchmark of that name.
    """
    _check(BENCHMARKS, text)


def check_model(name: str | None) -> None:
    """Check the name of a bundled model; folders and hub names are checked where models are loaded.

    Raises:
        UnknownNameError: there is no such bundled model.
    """
    check_bundled(name or BUNDLED)


def check_models(text: str | None) -> None:
    """Check the names of bundled models and of settings in a list of models.

    Raises:
        UnknownNameError: there is no such bundled model or setting.
    """
    for member in split_list(text or ""):
        name, settings = parse(member)
        check_bundled(name)
        for setting in settings:
            check_setting(setting)


def _check(known: EntryPoints, text: str | None) -> None:
    for member in split_list(text or ""):
        known.get(parse(member)[0])
