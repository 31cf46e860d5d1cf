"""What several commands share: exit codes, options, progress."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DONE, CELLS_FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
_WIDE = 1000


def model_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which model, and how it is loaded."""
    parser.add_argument("--model", metavar="PATH", help="folder or hub name (default: the bundled model)")
    parser.add_argument("--device", help="(default: cuda if there is one, else cpu)")
    parser.add_argument("--dtype", help="of the weights, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument("--attention", help="sdpa, eager, flash_attention_2")


def cache_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where the cache is compressed."""
    parser.add_argument("--stage", choices=("cache", "input"), default="cache")
    parser.add_argument("--positions", choices=("keep", "compact"), default="keep")


def load_model(options: argparse.Namespace) -> tuple[Any, Any]:
    """The model and processor that `model_options` name."""
    from ..models.loading import BUNDLED, load_named

    how = {"device": options.device, "dtype": options.dtype, "attention": options.attention}
    return load_named(options.model or BUNDLED, **how)


def quiet() -> None:
    """Keep transformers and the hub from talking, here and in worker processes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    if os.environ["TRANSFORMERS_VERBOSITY"] == "error":
        logging.set_verbosity_error()
    logging.disable_progress_bar()


def progress() -> Progress:
    """A bar on stderr, so that stdout holds the results alone."""
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
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def showing(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is told what is being done and how far that is, of how far in all; 0 where nobody knows."""
    with progress() as bar:
        task = bar.add_task(what, total=None)

        def say(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield say


def print_tables(tables: Iterable[Table], notes: Iterable[str]) -> None:
    """Tables on stdout, each as wide as it has to be, and what has to be said under them."""
    from rich.console import Console

    console = Console(highlight=False)
    for table in tables:
        natural = console.measure(table, options=console.options.update(width=_WIDE)).maximum
        console.width = max(console.width, natural)
        console.print(table)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
