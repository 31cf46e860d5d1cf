"""An endless stream: memory, speed and recall of a session after more and more frames.

    python -m kvpress_video.benchmarks.streams.endless --frames 1000 10000 100000 --method infinipot-v --budget 256 \\
        --out benchmarks/results/endless.json

Each length runs in a separate process, on one scene of the bundled world: shapes flash in its first minute and never
again; it then plays backwards and forwards without a cut. Rows of other streams in the file are kept.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.progress import Progress

import kvpress_video as kv
from kvpress_video.sweep.benchmark import same_words
from kvpress_video.sweep.run.environment import device_name

from ..publishing.provenance import provenance, write_result
from ..world import CAMERAS, HELD_OUT_SEED, Clip, make_clip

SEED = HELD_OUT_SEED + 20_000
STEPS, EARLY = 256, 60
"""Seconds of the clip, and those within which shapes flash."""
TRAINED = 256
"""Temporal positions of the longest clips that the bundled model was trained on."""
PIECE = 16
"""Seconds pushed at once."""
USUAL_DTYPE = "float32"
TOPICS = {"needle": "early", "order": "early", "count": "early", "persistent": "in view"}
"""Topics of questions: the flashes of the first minute, or objects always in view."""
WHAT = "The bundled model watches one scene of the bundled world at two frames a second; a row per process."


@dataclass(frozen=True)
class Plan:
    """A stream to run.

    Attributes:
        method, budget: method and budget of the session; no budget for `full`.
        frames: number of frames pushed.
        clip: the clip that is played.
        early: seconds of the clip that are played only once: shapes flash in them.
        position_limit: positions that the session may use.
        checkpoints: number of times to measure memory and ask questions.
        dtype: dtype of the model and its cache.
    """

    method: str
    budget: str | None
    frames: int
    clip: Clip
    early: int = EARLY
    position_limit: int = TRAINED
    checkpoints: int = 40
    dtype: str = USUAL_DTYPE


def watch(plan: Plan) -> dict[str, Any]:
    """Push the frames of a plan and measure at checkpoints, in this process.

    Returns:
        A row: bytes of the cache at the end, at its peak, and of its buffers; the process's resident set before the
        first frame, and settled (`rss`: the median over the later half of the checkpoints); frames per second without
        the questions; milliseconds per question (median); the highest position of a next token; answers and right
        answers by topic; and `trace`, the checkpoints.
    """
    model, processor = kv.load_bundled(device="cpu", dtype=plan.dtype)
    steps = kv.read_video(plan.clip.path).frames
    steps = steps.reshape(len(steps) // 2, 2, *steps.shape[1:])
    questions = [question for question in plan.clip.questions if question.family in TOPICS]
    session = kv.VideoSession(
        model, processor, plan.method, plan.budget, position_limit=plan.position_limit, positions="compact"
    )
    start, pushing, highest = _resident(), 0.0, 0
    asking: list[float] = []
    trace: list[dict[str, Any]] = []
    asked, right = (dict.fromkeys(TOPICS.values(), 0) for _ in range(2))
    way, pushed = path(len(steps), plan.early), 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{plan.method}, {plan.frames} frames", total=plan.frames // 2)
        for number in range(1, plan.checkpoints + 1):
            while pushed < (until := plan.frames // 2 * number // plan.checkpoints):
                piece = steps[list(islice(way, min(PIECE, until - pushed)))]
                began = time.perf_counter()
                session.push(np.concatenate(piece))
                pushing += time.perf_counter() - began
                pushed += len(piece)
                highest = max(highest, session.stats.position)
                progress.advance(task, len(piece))
            began = time.perf_counter()
            session.flush()
            pushing += time.perf_counter() - began
            for question in questions:
                topic = TOPICS[question.family]
                if topic == "early" and pushed < plan.early:
                    continue
                began = time.perf_counter()
                answer = session.ask(question.text, keep=False, max_new_tokens=8)
                asking.append(time.perf_counter() - began)
                asked[topic] += 1
                right[topic] += same_words(answer, question.answer)
            trace.append({**_memory(session.stats), "rss": _resident(), "asked": {**asked}, "right": {**right}})
    stats = session.stats
    return {
        "method": plan.method,
        "budget": plan.budget,
        "frames": stats.frames,
        "camera": plan.clip.camera,
        "position_limit": plan.position_limit,
        "dtype": plan.dtype,
        "device": device_name(model.device),
        "visual_tokens": stats.visual_tokens,
        "entries": stats.entries[0],
        **_memory(stats),
        "rss_start": start,
        "rss": int(median(point["rss"] for point in trace[len(trace) // 2 :])),
        "frames_per_second": round(stats.frames / pushing, 1),
        "ask_ms": round(1000 * median(asking), 1),
        "highest_position": highest,
        "asked": asked,
        "right": right,
        "trace": trace,
    }


def path(steps: int, early: int) -> Iterator[int]:
    """Yield steps in playing order: all, then back to the end of the early ones, and forth, forever.

    Raises:
        ValueError: all steps are early ones.
    """
    if steps - early < 2:
        raise ValueError(f"a clip of {steps} steps, {early} of which are shown once, cannot go on: make it longer")
    return chain(range(steps), cycle(chain(range(steps - 2, early - 1, -1), range(early + 1, steps))))


def _memory(stats: kv.SessionStats) -> dict[str, int]:
    names = ("frames", "bytes", "reserved_bytes", "peak_bytes", "position")
    return {name: getattr(stats, name) for name in names}


def _resident() -> int:
    """Return the resident memory of this process in bytes."""
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


def alone(plan: Plan) -> dict[str, Any]:
    """Run a plan in a fresh process and return its row."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(watch, plan).result()


def main() -> None:
    """Run streams of several lengths and write their rows."""
    parser = argparse.ArgumentParser(description="Memory and speed of an endless stream.")
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--method", default="infinipot-v", help="compression method (default: %(default)s)")
    parser.add_argument("--budget", help="visual entries, or bytes such as 4MiB; none for full")
    parser.add_argument("--camera", choices=CAMERAS, nargs="+", default=["still"])
    parser.add_argument(
        "--position-limit",
        type=int,
        default=TRAINED,
        metavar="N",
        help="positions a session may use (default: %(default)s)",
    )
    parser.add_argument("--dtype", default=USUAL_DTYPE, help="dtype of the model and cache (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {_key(row): row for row in found}
    for camera in options.camera:
        with tempfile.TemporaryDirectory() as folder:
            clip = make_clip(Path(folder) / "clip.mp4", STEPS, camera, SEED, EARLY)
            for frames in options.frames:
                chosen = {"position_limit": options.position_limit, "dtype": options.dtype}
                plan = Plan(options.method, options.budget, frames, clip, **chosen)
                row = {**alone(plan), **provenance()}
                rows[_key(row)] = row
                write_result(options.out, {"what": WHAT}, rows=[rows[key] for key in sorted(rows)])
                print({name: value for name, value in row.items() if name != "trace"}, flush=True)


def _key(row: dict[str, Any]) -> tuple[str, str, int, str, str, int]:
    dtype = row.get("dtype", USUAL_DTYPE)
    return row["method"], row["budget"] or "", row["position_limit"], dtype, row["camera"], row["frames"]


if __name__ == "__main__":
    main()
