"""Ask a model about held-out clips as a user would: mp4 file, processor, `generate()`.

`python -m kvpress_video.benchmarks.train.evaluate FOLDER --frames 32 64` prints one line per length with the accuracy
of each family and camera.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import kvpress_video as kv

from ..world import FAMILIES, Clip, make_clips
from ..world.clips import FPS, NOISE, draw_scene
from ..world.render import render


def read_video(path: Path) -> torch.Tensor:
    """Read all video frames of a file, uint8 `(N, 3, H, W)`."""
    return torch.from_numpy(kv.read_video(path).frames).permute(0, 3, 1, 2)


def render_video(clip: Clip) -> torch.Tensor:
    """Render the video frames of a clip without encoding, uint8 `(N, 3, H, W)`."""
    scenes, _, generator = draw_scene(clip.seed, clip.frames, clip.camera)
    return render(scenes, NOISE, generator)[0].flatten(0, 1).byte()


@torch.no_grad()
def answer(model: Any, processor: Any, video: torch.Tensor, question: str) -> str:
    """Answer a question about a video (N, 3, H, W) of two frames per second."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = {"fps": FPS, "total_num_frames": len(video), "frames_indices": list(range(len(video)))}
    inputs = processor(
        text=[prompt], videos=[video], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    ).to(model.device)
    if float(inputs["second_per_grid_ts"][0]) != 1.0:
        raise RuntimeError(f"the processor spaced frames by {inputs['second_per_grid_ts'][0]} s, not by 1 s")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    text: str = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


def evaluate(model: Any, processor: Any, clips: list[Clip], raw: bool = False) -> dict[str, dict[str, float]]:
    """Accuracy by camera and family over clips; `raw` skips the video file."""
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        video = render_video(clip) if raw else read_video(clip.path)
        for question in clip.questions:
            said = answer(model, processor, video, question.text)
            right[clip.camera][question.family].append(said == question.answer)
    return {
        camera: {family: round(sum(marks[family]) / len(marks[family]), 3) for family in FAMILIES}
        for camera, marks in right.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model and its processor")
    parser.add_argument("--frames", type=int, nargs="+", default=[32], help="lengths of the clips (default 32)")
    parser.add_argument("--clips", type=int, default=100, help="clips of each length (default 100)")
    parser.add_argument("--raw", action="store_true", help="use the frames before encoding instead of the video files")
    options = parser.parse_args()
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    for frames in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            clips = make_clips(options.clips, frames, folder=Path(folder))
            line = {"frames": frames, "clips": len(clips), "raw": options.raw}
            print(json.dumps({**line, **evaluate(model, processor, clips, options.raw)}), flush=True)


if __name__ == "__main__":
    main()
