"""Ask a model about held-out clips as a user would: from mp4 files, with its processor and `generate()`.

`python -m kvpress_video.benchmarks.train.evaluate FOLDER --frames 32 64` prints one line per length with the accuracy
of each family of questions and camera, and of both cameras with its 95% interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

import kvpress_video as kv

from ..world.clips import CAMERAS, HELD_OUT_SEED
from ..world.files import FPS, Clip
from .families import FAMILIES
from .worlds import WORLDS, TrainingWorld


def read_video(path: Path) -> torch.Tensor:
    """Read all video frames of a file, uint8 `(N, 3, H, W)`."""
    return torch.from_numpy(kv.read_video(path).frames).permute(0, 3, 1, 2)


@torch.no_grad()
def answer(model: Any, processor: Any, video: torch.Tensor, question: str) -> str:
    """Answer a question about a video (N, 3, H, W) of two frames per second."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = {"fps": FPS, "total_num_frames": len(video), "frames_indices": list(range(len(video)))}
    inputs = processor(
        text=[prompt], videos=[video], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    ).to(model.device)
    spaced = float(inputs.get("second_per_grid_ts", [1.0])[0])
    if spaced != 1.0:
        raise RuntimeError(f"the processor spaced frames by {spaced} s, not by 1 s")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    text: str = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


def evaluate(
    model: Any, processor: Any, world: TrainingWorld, clips: list[Clip], raw: bool = False
) -> dict[str, dict[str, Any]]:
    """Measure accuracy by camera and family of questions on clips of a world; `raw` skips the video files.

    Returns:
        Accuracies by camera, and under "both" the accuracy with the lower and upper end of its Wilson interval.
    """
    right: dict[str, dict[str, list[bool]]] = {which: defaultdict(list) for which in (*CAMERAS, "both")}
    for clip in clips:
        video = world.video_frames(clip) if raw else read_video(clip.path)
        for question in clip.questions:
            said = answer(model, processor, video, question.text)
            for which in (clip.camera, "both"):
                right[which][question.family].append(said == question.answer)
                right[which]["all"].append(said == question.answer)
    found = {which: {family: mean(marks) for family, marks in by.items()} for which, by in right.items()}
    return {**found, "both": {family: interval(marks) for family, marks in right["both"].items()}}


def mean(marks: list[bool]) -> float:
    """Return the share of correct answers."""
    return round(sum(marks) / len(marks), 3)


def interval(marks: list[bool]) -> list[float]:
    """Return the share of correct answers with its 95% Wilson interval."""
    ends = binomtest(sum(marks), len(marks)).proportion_ci(method="wilson")
    return [mean(marks), round(ends.low, 3), round(ends.high, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model and its processor")
    parser.add_argument("--world", choices=WORLDS, default="world", help="what to ask about (default world)")
    parser.add_argument("--frames", type=int, nargs="+", default=[32], help="lengths of the clips (default 32)")
    parser.add_argument("--clips", type=int, default=100, help="clips of each length (default 100)")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="seed of the first clip (default %(default)s)")
    parser.add_argument("--dtype", default="float32", help="dtype of the weights (default float32)")
    parser.add_argument("--raw", action="store_true", help="use the frames before encoding instead of the video files")
    options = parser.parse_args()
    model, processor = kv.load(options.model, dtype=options.dtype)
    world, timed = WORLDS[options.world], FAMILIES[model.config.model_type].written_times
    for frames in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            clips = world.held_out(options.clips, frames, options.seed, timed, Path(folder))
            line = {"frames": frames, "clips": len(clips), "raw": options.raw, "dtype": options.dtype}
            print(json.dumps({**line, **evaluate(model, processor, world, clips, options.raw)}), flush=True)


if __name__ == "__main__":
    main()
