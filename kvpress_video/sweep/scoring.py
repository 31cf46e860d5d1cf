"""How answers are compared."""

from __future__ import annotations


def same_words(answer: str, expected: str) -> bool:
    """Whether two answers are the same words, whatever their case and final stop."""
    return _words(answer) == _words(expected)


def _words(text: str) -> str:
    return " ".join(text.casefold().strip(" .\n").split())
