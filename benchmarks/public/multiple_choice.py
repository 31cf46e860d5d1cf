"""Multiple choice: options, their letters, and the letter that an answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from kvpress_video.errors import BenchmarkError

_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)


def letters(count: int) -> str:
    """The first `count` letters."""
    return ascii_uppercase[:count]


def plain_options(options: Sequence[Any]) -> tuple[str, ...]:
    """Strip letters from options: `"A. Black."` and `"(A) Black."` become `"Black."`.

    If not every option starts with its letter, all are left as they are.
    """
    texts = [str(option).strip() for option in options]
    found = [
        re.match(rf"\(?{letter}[.):]\)?\s*(.*)", text, re.DOTALL)
        for letter, text in zip(ascii_uppercase, texts, strict=False)
    ]
    return tuple(match.group(1) for match in found if match) if all(found) else tuple(texts)


def listed(options: Sequence[str], form: str = "{letter}. {option}") -> str:
    """The options, one per line, each with its letter."""
    return "\n".join(
        form.format(letter=letter, option=option) for letter, option in zip(ascii_uppercase, options, strict=False)
    )


def letter_at(index: Any, options: Sequence[str], where: str) -> str:
    """The letter of an option by its index.

    Raises:
        BenchmarkError: there is no such option.
    """
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        raise BenchmarkError(f"{where}: the answer {index!r} is not the place of one of the {len(options)} options.")
    return ascii_uppercase[index]


def known_letter(answer: Any, options: Sequence[str], where: str) -> str:
    """Read the letter of the right answer.

    Raises:
        BenchmarkError: no option has that letter.
    """
    letter = str(answer).strip().strip("().").upper()
    if len(letter) != 1 or letter not in letters(len(options)):
        raise BenchmarkError(f"{where}: the answer {answer!r} is not one of the letters {letters(len(options))}.")
    return letter


def letter_of(answer: Any, options: Sequence[str], where: str) -> str:
    """Find the letter of the right answer by its text; the first of equal options.

    Raises:
        BenchmarkError: no option has that text.
    """
    texts = [str(option).strip() for option in options]
    if str(answer).strip() not in texts:
        raise BenchmarkError(f"{where}: the answer {answer!r} is none of {', '.join(map(repr, texts))}.")
    return ascii_uppercase[texts.index(str(answer).strip())]


def first_letter(answer: str, count: int) -> str:
    """The first capital letter of an option anywhere in an answer, phrases such as "The best answer is" left out.

    Empty if there is none. Video-MME's own script parses answers like this, and lmms-eval for many benchmarks.
    """
    for prefix in _PREFIXES:
        answer = answer.replace(prefix, "")
    found = re.search(f"[{letters(count)}]", answer)
    return found[0] if found else ""


def bracketed_letter(answer: str, count: int) -> str:
    """The letter before the first closing bracket, as in `"(B) a dog"` or `"B) a dog"`; empty if there is none."""
    before, bracket, _ = answer.partition(")")
    letter = before.rpartition("(")[2].strip()[-1:]
    return letter if bracket and letter and letter in letters(count) else ""
