"""Accuracy by budget and treatment of frame labels, on the bundled Qwen3-VL, which was trained with labels.

    python -m kvpress_video.benchmarks.labels.accuracy --out benchmarks/results/labels.json

All questions about a clip are the rows of one batch, in which the video is compressed before the question is read. The
*time* question asks at what second a shape flashed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

import kvpress_video as kv
from kvpress_video.budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET
from kvpress_video.compressor.registry import make_method
from kvpress_video.errors import BudgetError
from kvpress_video.prefill.options import Labels
from kvpress_video.sweep.benchmark import same_words
from kvpress_video.video.prompt import prepare

from ..publishing.provenance import provenance, write_result
from ..world import HELD_OUT_SEED, Clip, Question, make_clips
from ..world.clips import when_was_it

SEED = HELD_OUT_SEED + 50_000
BUDGETS = (48, 96, 192, 384)
METHODS = ("infinipot-v", "uniform")
FAMILIES = ("time", "order", "all")
DEFAULT: Labels = "spread"
RESAMPLES = 10_000
WHAT = (
    "A row of `cells` is one method, budget and setting of labels: the share of right answers over all clips, then the "
    "ends of its 95% interval. A row of `differences` is that share less that of `spread`, clip by clip. "
    "A row of `rows` is one of them on one clip, with its answers in the order of questions."
)


def asked(clip: Clip) -> tuple[Question, ...]:
    """Return the questions about a clip."""
    return (*clip.questions, when_was_it(clip))


def watch(
    model: Any, inputs: Any, processor: Any, clip: Clip, method: str, budget: int | str, labels: Labels
) -> dict[str, Any]:
    """Ask about a clip whose prompts are `inputs`: a row, with `error` if the budget cannot be met."""
    row: dict[str, Any] = {"method": method, "budget": budget, "labels": labels, "clip": clip.path.name}
    try:
        with kv.compress(model, method, budget, labels=labels) as run:
            output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    except BudgetError as error:
        return row | {"error": str(error)}
    answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return row | {
        "entries": max(run.report.entries),
        "label_entries": max(run.report.label_entries),
        "bytes": run.report.bytes // len(answers),
        "answers": answers,
        "right": [same_words(said, question.answer) for said, question in zip(answers, asked(clip), strict=True)],
    }


def rows(clips: Sequence[Clip], methods: Sequence[str], budgets: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Watch every clip without compression, then with every method, budget and setting of labels."""
    model, processor = kv.load_bundled("qwen3_vl", device="cpu", dtype="float32")
    for clip in clips:
        inputs = prepare(processor, kv.read_video(clip.path), [question.text for question in asked(clip)])
        yield watch(model, inputs, processor, clip, UNCOMPRESSED, UNCOMPRESSED_BUDGET, "keep")
        for method, budget, labels in product(methods, budgets, get_args(Labels)):
            yield watch(model, inputs, processor, clip, method, budget, labels)


def per_clip(clips: Sequence[Clip], found: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, np.ndarray]]:
    """Count correct answers and questions of each answered cell, by clip: family to an array of (clips, 2)."""
    families = {clip.path.name: [question.family for question in asked(clip)] for clip in clips}
    cells: dict[tuple[Any, ...], dict[str, list[tuple[int, int]]]] = {}
    for row in found:
        if "error" in row:
            continue
        cell = cells.setdefault((row["method"], row["budget"], row["labels"]), {family: [] for family in FAMILIES})
        marks = list(zip(families[row["clip"]], row["right"], strict=True))
        for family, counts in cell.items():
            right = [mark for asked_of, mark in marks if family in (asked_of, "all")]
            counts.append((sum(right), len(right)))
    return {cell: {family: np.array(counts) for family, counts in found.items()} for cell, found in cells.items()}


def summary(clips: Sequence[Clip], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compute the accuracies of each cell by family of questions, with 95% bootstrap intervals over clips."""
    marks = per_clip(clips, found)
    table: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in found:
        cell = (row["method"], row["budget"], row["labels"])
        line = table.setdefault(cell, dict(zip(("method", "budget", "labels"), cell, strict=True)))
        if "error" in row:
            line["error"] = row["error"]
            continue
        line |= {name: max(row[name], line.get(name, 0)) for name in ("entries", "label_entries", "bytes")}
        line |= {family: interval(counts) for family, counts in marks[cell].items()}
    return list(table.values())


def differences(clips: Sequence[Clip], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compute the accuracy of `keep` and `drop` minus that of the default, on the same clips, with 95% intervals."""
    marks = per_clip(clips, found)
    return [
        {"method": method, "budget": budget, "labels": labels}
        | {family: interval(counts, marks[method, budget, DEFAULT][family]) for family, counts in cell.items()}
        for (method, budget, labels), cell in marks.items()
        if labels != DEFAULT and (method, budget, DEFAULT) in marks
    ]


def interval(counts: np.ndarray, less: np.ndarray | None = None) -> list[float]:
    """Compute the accuracy, minus that of others on the same clips, and its 95% interval.

    Args:
        counts: correct answers and questions, by clip.
        less: counts to compare with.
    """

    def share(of: np.ndarray) -> Any:
        return of[..., 0].sum(-1) / of[..., 1].sum(-1)

    drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    found, resampled = share(counts), share(counts[drawn])
    if less is not None:
        found, resampled = found - share(less), resampled - share(less[drawn])
    return [round(float(value), 3) for value in (found, *np.quantile(resampled, (0.025, 0.975)))]


def main() -> None:
    """Measure every cell on every clip, and write the rows and their summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48, help="clips, half of each camera (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=32, help="seconds of each clip (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the first clip (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    parser.add_argument(
        "--budgets", nargs="+", type=int, default=BUDGETS, metavar="N", help="entries of video and labels"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(options.clips, options.frames, seed=options.seed, folder=Path(folder))
        found = list(rows(clips, options.methods, options.budgets))
    head = {
        "what": WHAT,
        **provenance(),
        "model": "bundled qwen3_vl, float32",
        "clips": options.clips,
        "frames": options.frames,
        "seed": options.seed,
        "settings": {method: make_method(method).describe() for method in options.methods},
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    write_result(options.out, head, cells=summary(clips, found), differences=differences(clips, found), rows=found)


if __name__ == "__main__":
    main()
