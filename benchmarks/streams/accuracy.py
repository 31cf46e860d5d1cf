"""Accuracy at the end of a stream, about its beginning and about its last frame.

    python -m kvpress_video.benchmarks.streams.accuracy --out benchmarks/results/stream-accuracy.json

Every clip is pushed into a `VideoSession`, which compresses it before any question is known. Then all questions are
asked, and none is kept in the conversation. *Memory* questions are about shapes that flashed in the first quarter; the
*present* question is where something is in the last frame.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

import kvpress_video as kv
from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.compressor.registry import make_method
from kvpress_video.errors import BudgetError, UnsupportedModelError
from kvpress_video.sweep.benchmark import same_words
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.grid.spec import make_grid
from kvpress_video.sweep.grid.yaml_file import read_grid
from kvpress_video.sweep.run.environment import device_name
from kvpress_video.video.reader import Frames

from ..publishing.provenance import provenance, write_result
from ..world import HELD_OUT_SEED, Clip, make_clips

SEED = HELD_OUT_SEED + 30_000
STEPS = 64
"""Seconds of a clip; one second is two frames and one temporal step of 16 visual tokens."""
COLUMNS = {"needle": "memory", "order": "memory", "count": "memory", "place": "present"}
"""Column of each family of questions."""
BUDGETS = ("16", "32", "64", "128", "256")
METHODS = (
    *(UNCOMPRESSED, "random", "uniform", "recent", "memory-bank", "snapkv", "tar", "van", "infinipot-v"),
    *("hermes", "streammem", "novelty", "standby-novelty", "detachable:window=0.5,scorer=novelty,per_frame=2"),
    "reversed:base=tar",
)
WHAT = (
    "A row is one method at one budget (visual entries per layer and KV head) on one clip: the answers to the clip's "
    "questions, in order, and what the cache held when they were asked."
)


def watch(clip: Clip, cell: Cell) -> dict[str, Any]:
    """Push a clip into a session and ask about it.

    Returns:
        A row; `right` has one entry per question. A method that cannot work within the budget has `error` instead.
    """
    model, processor = _bundled()
    budget = None if cell.method == UNCOMPRESSED else cell.budget
    row: dict[str, Any] = {"method": cell.method, "budget": cell.budget, "clip": Path(clip.path).name}
    started = time.perf_counter()
    try:
        session = kv.VideoSession(model, processor, cell.method, budget)
        session.push(_frames(clip.path))
        session.flush()
    except (BudgetError, UnsupportedModelError) as error:
        return row | {"error": str(error)}
    seconds = time.perf_counter() - started
    questions = _asked(clip)
    answers = [session.ask(question.text, keep=False, max_new_tokens=8) for question in questions]
    stats = session.stats
    if budget is not None and sum(stats.entries) > int(budget) * len(stats.entries):  # layers may differ
        raise BudgetError(f"{cell} holds {stats.entries} visual entries.")
    return row | {
        "entries": stats.entries[0] if len(set(stats.entries)) == 1 else list(stats.entries),
        "bytes": stats.bytes,
        "peak_bytes": stats.peak_bytes,
        "seconds": round(seconds, 2),
        "answers": answers,
        "right": [same_words(answer, question.answer) for answer, question in zip(answers, questions, strict=True)],
    }


def watch_all(clips: Sequence[Clip], cells: Sequence[Cell], workers: int) -> Iterator[dict[str, Any]]:
    """Run all cells on all clips in several processes, and return their rows clip by clip."""
    jobs = list(product(clips, cells))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
        rows = pool.map(watch, *zip(*jobs, strict=True), chunksize=8)
        yield from track(rows, "watching", len(jobs), console=Console(stderr=True), transient=True)


def _asked(clip: Clip) -> list[Any]:
    return [question for question in clip.questions if question.family in COLUMNS]


@cache
def _bundled() -> tuple[Any, Any]:
    return kv.load_bundled(device="cpu")


@lru_cache(maxsize=2)
def _frames(path: Path) -> Frames:
    return kv.read_video(path).frames


def head(clips: Sequence[Clip], cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the head of the results file: provenance, and the settings of the methods."""
    model, _ = _bundled()
    return {
        "what": WHAT,
        **provenance(),
        "model": "bundled",
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(model.config._attn_implementation),
        "device": device_name(torch.device("cpu")).partition(",")[0],
        "positions": "compact",
        "fps": clips[0].fps,
        "frames": clips[0].frames * clips[0].fps,
        "settings": {cell.method: make_method(cell.method).describe() for cell in cells},
        "columns": COLUMNS,
    }


def described(clip: Clip) -> dict[str, Any]:
    """Return the record of a clip and its questions: family, text, answer."""
    questions = [[question.family, question.text, question.answer] for question in _asked(clip)]
    return {"clip": Path(clip.path).name, "camera": clip.camera, "seed": clip.seed, "questions": questions}


def main() -> None:
    """Run every method at every budget on every clip and write the rows."""
    parser = argparse.ArgumentParser(description="Accuracy of methods in streaming form.")
    parser.add_argument("--clips", type=int, default=48, help="clips, half of each camera (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="seconds of each clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the first clip (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    parser.add_argument("--grid", type=Path, metavar="GRID.yaml", help="take the methods of this grid instead")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, metavar="N", help="visual entries")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), metavar="N")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    methods = read_grid(options.grid).methods if options.grid else options.methods
    cells = make_grid(methods=methods, budgets=options.budgets).cells()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(
            options.clips, options.steps, seed=options.seed, flashing=options.steps // 4, folder=Path(folder)
        )
        rows = list(watch_all(clips, cells, options.workers))
    minutes = round((time.perf_counter() - started) / 60, 1)
    shared = {**head(clips, cells), "minutes": minutes}
    write_result(options.out, shared, clips=[described(clip) for clip in clips], rows=rows)


if __name__ == "__main__":
    main()
