"""Exit codes, options and progress bars that commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

DONE, CELLS_FAILED, WRONG = 0, 1, 2
_WIDE = 1000
_MOST = 2**31


def whole_number(least: int) -> Callable[[str], int]:
    """Return an option type that reads whole numbers of at least `least`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:20]) < _MOST):
            raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number from {least} to {_MOST - 1}")
        return int(text)

    return read


def probability(text: str) -> float:
    """Read a number between 0 and 1 (an option type)."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not between 0 and 1: write 0.05")
    return value


def model_options(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    """Add the options that choose and load a model; optionally, the model is a positional argument."""
    what: dict[str, Any] = {"metavar": "PATH", "help": "folder or hub name (default: the bundled model)"}
    if positional:
        parser.add_argument("model", nargs="?", **what)
    else:
        parser.add_argument("--model", **what)
    parser.add_argument("--device", help="device of the model (default: cuda if available, else cpu)")
    parser.add_argument("--dtype", help="dtype of the weights, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument("--attention", help="attention implementation: sdpa, eager or flash_attention_2")


def cache_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose where to compress, and what happens to positions."""
    parser.add_argument(
        "--stage",
        choices=("cache", "input"),
        default="cache",
        help="compress the cache, or drop visual embeddings before the model (default: %(default)s)",
    )
    parser.add_argument(
        "--positions",
        choices=("keep", "compact"),
        default="keep",
        help="keep the positions of entries, or close the gaps (default: %(default)s)",
    )
    parser.add_argument(
        "--labels",
        choices=("spread", "keep", "drop"),
        default="spread",
        help="the text that some families write for each frame, such as its time: within the budget, for evenly spread "
        "frames; all of it, in addition to the budget; or none (default: %(default)s)",
    )
    parser.add_argument(
        "--quantize",
        metavar="BITS",
        help="bits of cached keys and values: 8, 4 or 2, or 4:residual_length=128 (default: none)",
    )


def load_model(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load the model and processor that `model_options` choose."""
    from ..models.loading import load_named
    from ..utils.model_names import BUNDLED

    how = {"device": options.device, "dtype": options.dtype, "attention": options.attention}
    return load_named(options.model or BUNDLED, **how)


def quiet() -> None:
    """Silence transformers and the hub, here and in worker processes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    if os.environ["TRANSFORMERS_VERBOSITY"] == "error":
        logging.set_verbosity_error()
    logging.disable_progress_bar()


def progress(transient: bool = False) -> Progress:
    """Create a progress bar on stderr, which is hidden if stderr is not a terminal.

    Args:
        transient: whether it disappears at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=transient)


@contextmanager
def progress_steps(first: str, transient: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar, and yield a function that updates it.

    The function takes the current step, the number of finished parts, and the total (0 if unknown).

    Args:
        first: the first step.
        transient: as in `progress`.
    """
    with progress(transient) as bar:
        task = bar.add_task(first, total=None)

        def update(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total or None)

        yield update


def terminal_width() -> int:
    """Return the number of columns of stdout; 80 if it is not a terminal."""
    from rich.console import Console

    return Console().width


def print_tables(tables: Iterable[RenderableType], notes: Iterable[str], fit: bool = False) -> None:
    """Print tables on stdout, each at its natural width, and notes below them.

    Args:
        tables: tables to print.
        notes: lines below the last table.
        fit: whether to break lines of columns that allow it, so that tables fit the terminal.
    """
    from rich.console import Console

    console = Console(highlight=False)
    for table in tables:
        if not fit:
            natural = console.measure(table, options=console.options.update(width=_WIDE)).maximum
            console.width = max(console.width, natural)
        console.print(table)
    plain = Console(highlight=False)
    for note in notes:
        plain.print(note, markup=False, soft_wrap=not plain.is_terminal)
