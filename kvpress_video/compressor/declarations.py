"""Validation of a method's declaration, before it sees any entries."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Set
from dataclasses import fields
from numbers import Real
from typing import Any

from ..errors import MethodError, MissingInputError, unknown_name
from ..utils.numbers import is_whole
from .base import FIDELITIES, NEEDS, STAGES, Compressor, deferred


def check_observer(method: Any) -> None:
    """Validate the declaration of a method.

    Raises:
        MethodError: a class instead of an instance; an object that is not a `Compressor`; a class that is not a
            dataclass, makes settings of class variables, or implements none of `scores()`, `select()` and `reduce()`;
            `needs` or `stages` of the wrong type; a capture setting that is not a positive integer; or a number of
            frames to exchange that is neither a count nor a fraction.
        UnknownNameError: an unknown need, stage or fidelity.
        MissingInputError: a need without the setting for its capture.
    """
    if isinstance(method, type):
        raise MethodError(f"{method.__name__} is a class: pass an instance, {method.__name__}(…).")
    if not isinstance(method, Compressor):
        raise MethodError(
            f"A method is a name or a Compressor, got {type(method).__name__} {method!r:.80}: pass e.g. 'tar'."
        )
    name = type(method).__name__
    _check_dataclass(type(method))
    if not isinstance(method.needs, Set):
        raise MethodError(f"{name}.needs must be a set of names, got {method.needs!r}: write e.g. {{'queries'}}.")
    if not isinstance(method.stages, Collection) or isinstance(method.stages, str) or not method.stages:
        raise MethodError(f"{name}.stages must be a tuple of names, got {method.stages!r}: write e.g. ('cache',).")
    for what, declared, known in (("need", method.needs, NEEDS), ("stage", method.stages, STAGES)):
        for each in declared:
            if each not in known:
                raise unknown_name(f"{what} of {name}", str(each), known)
    if method.fidelity and method.fidelity not in FIDELITIES:
        raise unknown_name(f"fidelity of {name}", str(method.fidelity), FIDELITIES)
    for need in sorted(method.needs):
        _check_capture(name, need, method.observer)
    own, base = type(method), Compressor
    if method.uneven and (own.select_uneven is base.select_uneven or deferred(method)):
        what = "needs 'deeper', which uneven heads do not support" if deferred(method) else "lacks select_uneven()"
        raise MethodError(f"{name} is uneven and {what}.")
    if all(getattr(own, each) is getattr(base, each) for each in ("scores", "ranking", "select", "reduce")):
        raise MethodError(f"{name} implements neither scores() nor select() nor reduce(): implement one of them.")
    _check_exchange(name, method)


def _check_dataclass(kind: type) -> None:
    for each in kind.__mro__[: kind.__mro__.index(Compressor)]:
        if "__dataclass_params__" in vars(each) or not issubclass(each, Compressor):
            continue
        settings = [name for name, note in inspect.get_annotations(each).items() if "ClassVar" not in str(note)]
        if settings or "__init__" in vars(each):
            raise MethodError(
                f"{each.__name__} is not a dataclass, so its settings ({', '.join(settings) or '__init__'}) are "
                "unknown: declare them as fields and decorate the class with @dataclass(frozen=True)."
            )
    declared = [name for name, note in inspect.get_annotations(Compressor).items() if "ClassVar" in str(note)]
    if wrong := [each.name for each in fields(kind) if each.name in declared]:
        raise MethodError(
            f"{kind.__name__} makes settings of {', '.join(wrong)}, which describe the class: annotate each as a "
            f"ClassVar, or not at all, e.g. {wrong[0]} = {getattr(kind, wrong[0], None)!r}."
        )


def _check_capture(name: str, need: str, observer: Compressor) -> None:
    settings = NEEDS[need]
    if missing := [setting for setting in settings if not hasattr(observer, setting)]:
        raise MissingInputError(
            f"{name} needs {need!r} and has no setting {' and '.join(missing)}, which configures its capture: add it."
        )
    for setting in settings[:1]:
        value = getattr(observer, setting)
        if not is_whole(value) or value < 1:
            raise MethodError(
                f"{name} needs {need!r}, whose setting {setting} must be a whole number above zero, got {value!r}."
            )


def _check_exchange(name: str, method: Compressor) -> None:
    """Check which frames a method exchanges for a question."""
    fresh, share = method.fresh, method.recall_share
    if not is_whole(fresh) or fresh < 0:
        raise MethodError(f"{name}.fresh must be a whole number of frames from 0, got {fresh!r}.")
    if not isinstance(share, Real) or not 0 <= share <= 1:
        raise MethodError(f"{name}.recall_share must be a share between 0 and 1, got {share!r}.")
    own = type(method)
    for needed in (own.scores, own.frame_scores) if share else ():
        if needed is getattr(Compressor, needed.__name__):
            raise MethodError(f"{name} brings frames back, and lacks {needed.__name__}(), which says which of them.")
