"""`kvpress-video ask`: answer one question about one video."""

from __future__ import annotations

import argparse

from ..budget import UNCOMPRESSED
from .common import DONE, cache_options, load_model, model_options, progress_steps, quiet, whole_number
from .names import check_methods, check_model
from .parsers import Commands, add_command


def add(commands: Commands) -> None:
    """Add the command."""
    ask = add_command(
        commands,
        "ask",
        help="answer one question about one video",
        description="Answer one question about one video. The answer is printed first, then the entries and bytes of "
        "the cache and the seconds from the frames to the answer.",
        examples=(
            'clip.mp4 "Where was the heart?" --method tar --budget 25%',
            'clip.mp4 "What does she put down?" \\\n'
            "      --model Qwen/Qwen2.5-VL-7B-Instruct --method infinipot-v --budget 6144",
        ),
    )
    ask.set_defaults(run=_ask)
    ask.add_argument("clip", metavar="CLIP", help="video file")
    ask.add_argument("question", metavar="QUESTION", help="text of the question")
    model_options(ask)
    ask.add_argument("--method", default=UNCOMPRESSED, help="name or name:setting=value,… (default: %(default)s)")
    ask.add_argument("--budget", help="25%%, 6144 (visual entries) or 256MiB; not needed for full")
    ask.add_argument("--fps", type=float, help="frames to sample per second (default: 2, or all if fewer)")
    ask.add_argument("--frames", type=int, help="total frames to sample")
    ask.add_argument("--start", type=float, metavar="SECONDS", help="start of the part to read")
    ask.add_argument("--end", type=float, metavar="SECONDS", help="end of the part to read")
    ask.add_argument(
        "--max-new-tokens",
        type=whole_number(1),
        default=64,
        metavar="N",
        help="maximum length of the answer (default: %(default)s)",
    )
    cache_options(ask)


def _ask(options: argparse.Namespace) -> int:
    check_methods(options.method)
    check_model(options.model)
    quiet()
    from ..budget import Budget
    from ..compressor.registry import make_method
    from ..question import ask
    from ..utils.formatting import plural
    from ..video.resolution import frame_pixels
    from ..video.selection import USUAL_FPS, select

    make_method(options.method)
    if options.budget is not None:
        Budget.parse(options.budget)
    chosen = select(
        options.clip,
        fps=options.fps,
        frames=options.frames,
        start=options.start,
        end=options.end,
        default_fps=USUAL_FPS,
    )
    with progress_steps("loading the model", transient=True) as update:
        model, processor = load_model(options)
        update("reading the video", 1, 3)
        video = chosen.read(max_pixels=frame_pixels(processor))
        update("answering", 2, 3)
        answer = ask(
            model,
            processor,
            video,
            options.question,
            method=options.method,
            budget=options.budget,
            stage=options.stage,
            positions=options.positions,
            labels=options.labels,
            quantize=options.quantize,
            max_new_tokens=options.max_new_tokens,
        )
    print(answer.text)
    print(f"{plural(len(video), 'frame')}; {answer.report}; {answer.seconds:.2f} s")
    return DONE
