"""Draw frames of a clip into one picture: `python -m kvpress_video.benchmarks.rooms.sheet sheet.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..world.clips import CAMERAS, HELD_OUT_SEED
from .clips import draw_scene, video_frames
from .difficulty import LEVELS, Difficulty

COLUMNS = 8
SCALE = 2


def sheet(seed: int, frames: int, camera: str, level: Difficulty, shown: int) -> Tensor:
    """Lay out `shown` evenly spaced frames of a clip, including all flashes: uint8 `(H, W, 3)`."""
    scenes, _, generator = draw_scene(seed, frames, camera, level)
    flashes = [frame for frame in scenes.flash_frame[0].tolist() if frame < frames]
    others = [frame for frame in torch.linspace(0, frames - 1, shown).long().tolist() if frame not in flashes]
    spare = max(0, shown - len(flashes))
    chosen = sorted([*flashes, *(others[i * len(others) // spare] for i in range(spare))])[:shown]
    pictures = video_frames(scenes, level, generator)[::2][chosen].permute(0, 2, 3, 1)
    rows = pictures.split(COLUMNS)
    return torch.cat([torch.cat(list(row), dim=1) for row in rows if len(row) == len(rows[0])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of the picture")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="seed of the clips (default %(default)s)")
    parser.add_argument("--frames", type=int, default=64, help="frames of the clips (default 64)")
    parser.add_argument("--level", choices=LEVELS, default="standard", help="difficulty (default standard)")
    parser.add_argument("--shown", type=int, default=16, help="frames to show of each camera (default 16)")
    options = parser.parse_args()
    parts = [sheet(options.seed, options.frames, camera, LEVELS[options.level], options.shown) for camera in CAMERAS]
    picture = Image.fromarray(torch.cat(parts).numpy())
    picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST).save(options.out)
    for camera in CAMERAS:
        print(f"{camera} camera:")
        for question in draw_scene(options.seed, options.frames, camera, LEVELS[options.level])[1]:
            print(f"  {question.family}: {question.text} {question.answer}")


if __name__ == "__main__":
    main()
