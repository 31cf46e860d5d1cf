"""`kvpress-video look`: draw the patches of a clip that each method keeps."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import DONE, load_model, model_options, progress, quiet
from .names import check_methods, check_model
from .parsers import Commands, add_command


def add(commands: Commands) -> None:
    """Add the command."""
    look = add_command(
        commands,
        "look",
        help="draw the patches that methods keep over the frames of a clip",
        description="Compress a clip with several methods, and draw the patches that each keeps over its frames.",
        examples=("clip.mp4 --methods infinipot-v,tar,van --budget 10%",),
    )
    look.set_defaults(run=_look)
    look.add_argument("clip", metavar="CLIP", help="video file")
    look.add_argument("--methods", required=True, help="methods to compare: a,b:setting=1,…")
    look.add_argument("--budget", required=True, help="budget of all methods: 10%%, 6144 (visual entries) or 256MiB")
    look.add_argument(
        "--question", metavar="TEXT", help="question to ask after each compression; the answers are shown"
    )
    model_options(look)
    look.add_argument("--frames", type=int, default=8, metavar="N", help="frames to show (default: %(default)s)")
    look.add_argument("--fps", type=float, help="frames to sample per second (default: 2, or all if fewer)")
    look.add_argument("--start", type=float, metavar="SECONDS", help="start of the part to compress")
    look.add_argument("--end", type=float, metavar="SECONDS", help="end of the part to compress")
    look.add_argument(
        "--out",
        type=Path,
        default=Path("look.png"),
        metavar="FILE",
        help="file to write: .png, .svg, .pdf or .html (default: %(default)s)",
    )


def _look(options: argparse.Namespace) -> int:
    check_methods(options.methods)
    check_model(options.model)
    quiet()
    from ..budget import Budget
    from ..compressor.registry import make_method
    from ..report.page import write_overlay
    from ..report.retained import look
    from ..report.style import check_suffix
    from ..sweep.results.export import check_output
    from ..utils.formatting import plural
    from ..utils.named_settings import split_list
    from ..video.resolution import frame_pixels
    from ..video.selection import USUAL_FPS, select

    methods = split_list(options.methods)
    for method in methods:
        make_method(method)
    Budget.parse(options.budget)
    check_suffix(options.out, (".html",))
    check_output(options.out)
    chosen = select(options.clip, fps=options.fps, start=options.start, end=options.end, default_fps=USUAL_FPS)
    model, processor = load_model(options)
    video = chosen.read(max_pixels=frame_pixels(processor))
    with progress() as bar:
        task = bar.add_task("compressing", total=len(methods))
        overlay = look(
            model,
            processor,
            video,
            methods,
            options.budget,
            options.question,
            shown=options.frames,
            done=lambda: bar.advance(task),
        )
    for kept in overlay.retained:
        answer = "" if kept.answer is None else f": {kept.answer}"
        print(f"{kept.method} {kept.budget}: {kept.ratio * 100:.3g}% of visual entries kept{answer}")
    print(f"{len(overlay.shown)} of {plural(overlay.frames, 'frame')} shown in {write_overlay(overlay, options.out)}")
    return DONE
