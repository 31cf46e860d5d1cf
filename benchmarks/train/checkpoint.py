"""Training checkpoints: weights, probes and course, with the optimizer's moments in a separate file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .course import Course
from .step import Step

COURSE, PROBES, MOMENTS = "course.json", "probes.safetensors", "moments.pt"


def save(out: Path, step: Step, course: Course) -> None:
    """Write a checkpoint, each file atomically, with moments in bfloat16."""
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = Path(name)
        step.model.save_pretrained(scratch)
        save_file(step.probes.state_dict(), scratch / PROBES)
        (scratch / COURSE).write_text(json.dumps(course.state()) + "\n")
        step.book.tokenizer.backend_tokenizer.save(str(scratch / "tokenizer.json"))
        moments = {
            key: {name: value.bfloat16() if value.ndim else value for name, value in state.items()}
            for key, state in step.optimizer.state_dict()["state"].items()
        }
        torch.save(moments, scratch / MOMENTS)
        for file in scratch.iterdir():
            os.replace(file, out / file.name)


def restore(folder: Path, step: Step, course: Course) -> None:
    """Load a checkpoint. Without moments, the learning rate warms up again.

    Raises:
        ValueError: the vocabulary differs, as after a change of the world's questions.
    """
    known = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    if known != step.book.tokenizer.get_vocab():
        raise ValueError(f"the model in {folder} has another vocabulary: begin from it with --warm-start")
    step.model.load_state_dict(step.family.load(folder).state_dict())
    if (folder / COURSE).is_file():
        course.restore(json.loads((folder / COURSE).read_text()))
    if (folder / PROBES).is_file():
        probes = load_file(folder / PROBES, device=str(step.device))
        step.probes.load_state_dict({name: value.float() for name, value in probes.items()})
    if (folder / MOMENTS).is_file():
        moments = step.optimizer.state_dict()
        moments["state"] = {
            key: {name: value.float() for name, value in state.items()}
            for key, state in torch.load(folder / MOMENTS, map_location=step.device).items()
        }
        step.optimizer.load_state_dict(moments)
    else:
        course.warm_up()
