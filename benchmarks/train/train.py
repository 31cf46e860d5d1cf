"""Train a bundled model: `python -m kvpress_video.benchmarks.train.train --family qwen2_5_vl --out FOLDER`.

The schedule follows the clock: `--seconds` is the duration of the whole training, `--share` the part of this run, and
`--resume` continues from a checkpoint of an earlier run, or of `warm_start`. Checkpoints are written every minute.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..world.clips import CAMERAS, HELD_OUT_SEED
from ..world.questions import KINDS
from .batches import Phrasebook
from .families import FAMILIES
from .processor import SPECIAL, build_processor
from .step import Step

STAGES = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256)
"""Clip lengths in frames, in the order they are learnt."""
MIX = {1: 2, 2: 1, 4: 2, 8: 6, 16: 10, 24: 12, 32: 20, 48: 12, 64: 18, 96: 8, 128: 8, 256: 8}
"""How often each length comes once it has been learnt."""
CONVERSATIONS = 0.4
"""Share of the batches in which a clip's questions are the turns of one conversation."""
WARM_UP = 200
REPORT_EVERY = 50


def main() -> None:
    options = _options()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    step = new_step(options.family, options.out, device)
    course = Course(options.frames_per_step, options.clips_per_step, options.longest, options.patience)
    if options.resume:
        course.restore(_load(options.resume, step))
    log = options.resume / "log.jsonl" if options.resume else None
    earlier = log.read_text().splitlines() if log and log.is_file() else []
    known = [f"{line}\n" for line in earlier if json.loads(line)["step"] <= course.steps]
    (options.out / "log.jsonl").write_text("".join(known))
    step.generator.manual_seed(step_seed(options.seed, course.steps))
    size = sum(p.numel() for p in step.model.parameters())
    print(f"{size:,} parameters on {device}, {course.seconds:.0f} s trained of {options.seconds:.0f}", flush=True)
    train(step, course, options)


def new_step(name: str, out: Path, device: torch.device) -> Step:
    """Make the step of a family with an untrained model, and write its tokenizer to `out`."""
    family = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_processor(family, Path(folder)).tokenizer
        shutil.copy(Path(folder) / "tokenizer.json", out)
    tokens = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    model = family.build(family.config(tokens, -(-len(tokenizer) // 16) * 16)).to(device)
    return Step(model, Phrasebook(family, tokenizer, device), torch.Generator(device))


def step_seed(seed: int, steps: int) -> int:
    """Seed of the clips from step `steps` on, below the held-out seeds."""
    return (seed + steps) % HELD_OUT_SEED


def train(step: Step, course: Course, options: argparse.Namespace) -> None:
    """Train until the end of this run's share or of the whole training, and report every 50 steps."""
    began = saved = time.monotonic()
    earlier = course.seconds
    dice = random.Random(options.seed + course.steps)
    while course.seconds < options.seconds and course.seconds - earlier < options.share:
        for _ in range(REPORT_EVERY):
            frames = course.draw(dice)
            step.set_rate(options.rate * course.rate(options.seconds))
            only = course.weakest if dice.random() < options.focus else ()
            step(course.clips(frames), step.family.seconds(frames, dice), dice.random() < CONVERSATIONS, only)
            course.steps += 1
        report = step.report()
        course.seconds = earlier + time.monotonic() - began
        course.learn(report["accuracy"], step.family.plan)
        line = {"step": course.steps, "seconds": round(course.seconds, 1), **report}
        with (options.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        if time.monotonic() - saved > options.save_every:
            save(options.out, step, course)
            saved = time.monotonic()
    save(options.out, step, course)


class Course:
    """Progress of the training: the current length of clips, and the position in the schedule."""

    def __init__(
        self, frames_per_step: int, clips_per_step: int = 256, longest: int = STAGES[-1], patience: int = 40
    ) -> None:
        self._frames, self._clips, self._patience = frames_per_step, clips_per_step, patience
        self._stages = [stage for stage in STAGES if stage <= longest]
        self.stage = 0
        self.weakest: Sequence[int] = ()
        self.reports_in_stage = 0
        self.steps = 0
        self.seconds = 0.0

    def clips(self, frames: int) -> int:
        """Clips in a batch, an even number."""
        return max(2, min(self._frames // frames, self._clips) // 2 * 2)

    def draw(self, dice: random.Random) -> int:
        """Length of the next clips: that of the stage every other time, until the last stage."""
        if self.stage < len(self._stages) - 1 and dice.random() < 0.5:
            return self._stages[self.stage]
        lengths = [length for length in MIX if length <= self._stages[self.stage]]
        return dice.choices(lengths, [MIX[length] for length in lengths])[0]

    def learn(self, accuracy: dict[int, dict[str, dict[str, float]]], plan: Sequence[str]) -> None:
        """Note the weakest family, and advance to longer clips once most questions of all families are answered right.

        Args:
            accuracy: by frames, camera and family of questions; only the current length counts.
            plan: the kinds of questions that are asked.
        """
        frames = self._stages[self.stage]
        if frames not in accuracy:
            return
        still = accuracy[frames][CAMERAS[0]]
        worst = min(still, key=still.__getitem__)
        self.weakest = [number for number, kind in enumerate(plan) if KINDS[kind][0] == worst]
        if self.stage == len(self._stages) - 1:
            return
        self.reports_in_stage += 1
        scores = [score for camera in accuracy[frames].values() for score in camera.values()]
        learnt = sum(scores) / len(scores) > 0.8 and min(scores) > 0.5
        if learnt or self.reports_in_stage > self._patience:
            self.stage += 1
            self.reports_in_stage = 0

    def rate(self, total: float) -> float:
        """Learning rate as a share of the highest: a short warm-up, then a cosine down to 2%."""
        progress = min(self.seconds / total, 1.0)
        return min(1.0, (self.steps + 1) / WARM_UP) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)

    def state(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def restore(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.stage = min(self.stage, len(self._stages) - 1)


def save(out: Path, step: Step, course: Course) -> None:
    """Write the model and the state for `--resume`, each file atomically."""
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        step.model.save_pretrained(scratch)
        moments = step.optimizer.state_dict()
        compact = {
            key: {name: value.bfloat16() if value.ndim else value for name, value in state.items()}
            for key, state in moments["state"].items()
        }
        content = {"probes": step.probes.state_dict(), "moments": compact, "course": course.state()}
        torch.save(content, Path(scratch) / "training.pt")
        for file in Path(scratch).iterdir():
            os.replace(file, out / file.name)


def _load(folder: Path, step: Step) -> dict[str, Any]:
    """Load a checkpoint into `step`, and return the course's state; an exported model has weights only, and none."""
    step.model.load_state_dict(step.family.load(folder).state_dict())
    if not (folder / "training.pt").is_file():
        return {}
    content = torch.load(folder / "training.pt", map_location=step.device)
    step.probes.load_state_dict(content["probes"])
    moments = step.optimizer.state_dict()
    moments["state"] = {
        key: {name: value.float() for name, value in state.items()} for key, state in content["moments"].items()
    }
    step.optimizer.load_state_dict(moments)
    course: dict[str, Any] = content["course"]
    return course


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="qwen2_5_vl", help="kind of model (default qwen2_5_vl)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and log.jsonl")
    parser.add_argument("--resume", type=Path, help="folder of a checkpoint to continue from, or of a model")
    parser.add_argument("--seconds", type=float, default=1080, help="duration of the whole training (default 1080)")
    parser.add_argument("--share", type=float, default=math.inf, help="seconds this run may take (default: all)")
    parser.add_argument("--longest", type=int, default=STAGES[-1], help="frames of the longest clips (default 256)")
    parser.add_argument("--frames-per-step", type=int, default=2048, help="frames in a batch (default 2048)")
    parser.add_argument("--clips-per-step", type=int, default=256, help="most clips in a batch (default 256)")
    parser.add_argument("--patience", type=int, default=40, help="reports before longer clips come anyway (default 40)")
    parser.add_argument(
        "--focus", type=float, default=0.0, help="share of batches about the weakest family (default 0)"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate (default 0.0015)")
    parser.add_argument("--save-every", type=float, default=60, help="seconds between checkpoints (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and clips (default 0)")
    parser.add_argument("--device", help="device to train on (default: cuda if available, else cpu)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
