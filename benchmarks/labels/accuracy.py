"""Accuracy by budget and by what becomes of the frames' labels, on the bundled Qwen3-VL, which was trained with them.

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
from kvpress_video.compressor.registry import UNCOMPRESSED, UNCOMPRESSED_BUDGET, make_method
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
RESAMPLES = 10_000
WHAT = (
    "A row of `cells` is one method, budget and setting of labels: the share of right answers over all clips, then the "
    "ends of its 95% interval. A row of `rows` is one of them on one clip, with its answers in the order of questions."
)


def asked(clip: Clip) -> tuple[Question, ...]:
    """The questions about a clip."""
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


def summary(clips: Sequence[Clip], found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracies of each cell, by family of questions, with 95% intervals from resampled clips."""
    families = {clip.path.name: [question.family for question in asked(clip)] for clip in clips}
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in found:
        cells.setdefault((row["method"], row["budget"], row["labels"]), []).append(row)
    table = []
    for (method, budget, labels), mine in cells.items():
        line: dict[str, Any] = {"method": method, "budget": budget, "labels": labels}
        if "error" in mine[0]:
            table.append(line | {"error": mine[0]["error"]})
            continue
        line |= {name: max(row[name] for row in mine) for name in ("entries", "label_entries", "bytes")}
        marks = [list(zip(families[row["clip"]], row["right"], strict=True)) for row in mine]
        for family in ("time", "order", "all"):
            per_clip = [[right for asked_of, right in clip if family in (asked_of, "all")] for clip in marks]
            line[family] = interval(per_clip)
        table.append(line)
    return table


def interval(per_clip: Sequence[Sequence[bool]]) -> list[float]:
    """Share of right answers, and the ends of its 95% interval from resampled clips."""
    right, count = (np.array([measure(marks) for marks in per_clip]) for measure in (sum, len))
    drawn = np.random.default_rng(0).integers(len(right), size=(RESAMPLES, len(right)))
    shares = right[drawn].sum(1) / count[drawn].sum(1)
    return [round(float(value), 3) for value in (right.sum() / count.sum(), *np.quantile(shares, (0.025, 0.975)))]


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
    write_result(options.out, head, cells=summary(clips, found), rows=found)


if __name__ == "__main__":
    main()
