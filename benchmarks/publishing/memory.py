"""Draw the cache size of a session over a video file, with and without a budget, for the README.

`python -m kvpress_video.benchmarks.publishing.memory vtest.avi docs/memory.svg` on the clip of OpenCV's samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import kvpress_video as kv
from kvpress_video.report.style import COLOURS, INK, drawing, save
from kvpress_video.video import read_in_groups

POSITIONS = 256
"""Range of positions on which the bundled model was trained."""


def watch(session: kv.VideoSession, clip: Path) -> tuple[list[float], list[float]]:
    """Push every frame of a file; return the seconds and the MiB of the cache after each step."""
    seconds, held = [0.0], [0.0]
    for video in read_in_groups(clip, size=8)[1]:
        session.push(video.frames, video.times)
        session.flush()
        seconds.append(float(video.times[-1]))
        held.append(session.stats.bytes / 2**20)
    return seconds, held


def main() -> None:
    """Draw the chart of the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("out", type=Path, help=".svg, .png or .pdf")
    parser.add_argument("--method", default="infinipot-v")
    parser.add_argument("--budget", type=int, default=256)
    options = parser.parse_args()
    model, processor = kv.load_bundled(device="cpu")
    full = watch(kv.VideoSession(model, processor, "full", position_limit=POSITIONS), options.clip)
    capped = watch(
        kv.VideoSession(model, processor, options.method, options.budget, position_limit=POSITIONS), options.clip
    )
    with drawing():
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(*full, color=INK, linestyle=":", label="full cache")
        axes.plot(*capped, color=COLOURS[0], label=f"{options.method}, {options.budget} entries per layer and head")
        axes.set(xlabel="seconds of video", ylabel="cache, MiB", xlim=(0, full[0][-1]), ylim=(0, None))
        axes.legend(frameon=False)
    save(figure, options.out)
    print(f"{full[0][-1]:.1f} s; full {full[1][-1]:.2f} MiB, {options.method} {capped[1][-1]:.2f} MiB")


if __name__ == "__main__":
    main()
