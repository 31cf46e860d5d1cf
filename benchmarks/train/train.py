"""Train a model on a world: `python -m kvpress_video.benchmarks.train.train --world rooms --out FOLDER`.

A run stops after `--minutes`; `--resume` continues from its folder, or from any model of the family trained on this
world. Without the optimizer's moments, as after `small`, the learning rate warms up again. `--warm-start` copies the
weights of equal shape and the embeddings of the words in both vocabularies from a model of another world. The learning
rate decays over `--schedule`, the minutes of all runs together.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..world.clips import HELD_OUT_SEED
from ..world.questions import chosen_families
from .batches import Phrasebook
from .checkpoint import restore, save
from .course import CONVERSATIONS, Course
from .families import FAMILIES
from .processor import SPECIAL, build_processor
from .reuse import reuse
from .step import Step
from .worlds import WORLDS, TrainingWorld

REPORT_EVERY = 50
"""Steps."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    world = WORLDS[options.world]
    step = new_step(options.family, world, device)
    course = Course(world, options.frames_per_step, options.clips_per_step, options.longest, options.patience)
    if options.warm_start:
        reuse(step.model, step.book.tokenizer, options.warm_start)
    if options.resume:
        restore(options.resume, step, course)
    _begin_log(options.out, options.resume, course.steps)
    step.generator.manual_seed(step_seed(options.seed, course.steps))
    size = sum(p.numel() for p in step.model.parameters())
    print(f"{size:,} parameters on {device}, {course.seconds / 60:.1f} min trained of {options.schedule:g}", flush=True)
    train(step, course, options)


def new_step(name: str, world: TrainingWorld, device: torch.device) -> Step:
    """Make the training step of a family with an untrained model."""
    family = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_processor(family, world, Path(folder)).tokenizer
    tokens = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    model = family.build(family.config(tokens, -(-len(tokenizer) // 16) * 16)).to(device)
    return Step(model, Phrasebook(family, world, tokenizer, device), torch.Generator(device))


def step_seed(seed: int, steps: int) -> int:
    """Return the seed of the clips from step `steps` on, below the held-out seeds."""
    return (seed + steps) % HELD_OUT_SEED


def train(step: Step, course: Course, options: argparse.Namespace) -> None:
    """Train until the end of this run or of the schedule, and report every 50 steps."""
    asked = _kinds_of(step.kinds, options.families)
    course.weakest = [kind for kind in course.weakest if kind in asked]
    began = saved = time.monotonic()
    earlier = course.seconds
    dice = random.Random(options.seed + course.steps)
    while course.seconds < 60 * min(options.schedule, earlier / 60 + options.minutes):
        for _ in range(REPORT_EVERY):
            frames = course.draw(dice)
            step.set_rate(options.rate * course.rate(60 * options.schedule))
            focused = course.weakest and dice.random() < options.focus
            only = course.weakest if focused else _some(asked, options.questions, dice)
            clips = course.clips(frames)
            step(clips, step.family.seconds(frames, dice), dice.random() < CONVERSATIONS, only)
            course.steps += 1
            course.frames += clips * frames
            course.seconds = earlier + time.monotonic() - began
            if course.seconds - earlier >= 60 * options.minutes:
                break
        report = step.report()
        course.seconds = earlier + time.monotonic() - began
        course.learn(report["accuracy"], step.kinds)
        line = {"step": course.steps, "frames": course.frames, "seconds": round(course.seconds, 1), **report}
        with (options.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        if time.monotonic() - saved > options.save_every:
            save(options.out, step, course)
            saved = time.monotonic()
    save(options.out, step, course)


def _kinds_of(families: Sequence[str], chosen: str | None) -> Sequence[int]:
    """Return the kinds of questions of the chosen families, such as "needle+order"; all by default."""
    names = families if chosen is None else chosen_families(chosen, set(families))
    return [kind for kind, family in enumerate(families) if family in names]


def _some(kinds: Sequence[int], wanted: int | None, dice: random.Random) -> Sequence[int]:
    """Draw the kinds of questions of a batch."""
    return kinds if wanted is None or wanted >= len(kinds) else sorted(dice.sample(kinds, wanted))


def _begin_log(out: Path, resumed: Path | None, steps: int) -> None:
    """Begin the log with the lines of the resumed run, up to its checkpoint."""
    log = resumed / "log.jsonl" if resumed else None
    earlier = log.read_text().splitlines() if log and log.is_file() else []
    known = [f"{line}\n" for line in earlier if json.loads(line)["step"] <= steps]
    (out / "log.jsonl").write_text("".join(known))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="world", help="what to train on (default world)")
    parser.add_argument("--family", choices=FAMILIES, default="qwen2_5_vl", help="kind of model (default qwen2_5_vl)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log.jsonl")
    parser.add_argument("--resume", type=Path, help="folder of a checkpoint to continue from, or of a model")
    parser.add_argument("--warm-start", type=Path, help="folder of a model of this family and another world")
    parser.add_argument("--minutes", type=float, default=math.inf, help="limit of this run (default: the schedule's)")
    parser.add_argument("--schedule", type=float, default=18, help="minutes of all runs together (default 18)")
    parser.add_argument("--longest", type=int, default=512, help="frames of the longest clips (default 512)")
    parser.add_argument("--frames-per-step", type=int, default=2048, help="frames in a batch (default 2048)")
    parser.add_argument("--clips-per-step", type=int, default=256, help="maximum clips in a batch (default 256)")
    parser.add_argument("--families", help="families of questions, such as needle+order (default: all of the world)")
    parser.add_argument("--questions", type=int, help="questions about each clip, drawn per batch (default: all)")
    parser.add_argument(
        "--patience", type=int, default=40, help="reports before longer clips are added regardless (default 40)"
    )
    parser.add_argument(
        "--focus", type=float, default=0.0, help="share of batches about the weakest family (default 0)"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate (default 0.0015)")
    parser.add_argument("--save-every", type=float, default=60, help="seconds between checkpoints (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and clips (default 0)")
    parser.add_argument("--device", help="device to train on (default: cuda if available, else cpu)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
