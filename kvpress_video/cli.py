"""The command line: `kvpress-video sweep`, `ask`, `run` and `methods`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import KVPressVideoError

if TYPE_CHECKING:
    from rich.progress import Progress

TABLE_METHODS = (
    "full,random,uniform,recent,sink-window,key-norm,snapkv,tar,van,infinipot-v,standby,novelty,standby-novelty,"
    "average-pooling,memory-bank,streammem,hermes,detachable"
)
TABLE_BUDGETS = "50%,25%,12.5%,6.25%"
CLIPS, FRAMES = 48, 32
USUAL_FPS = 2.0
WIDE = 1000

DONE, CELLS_FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, 1 if a cell of a sweep failed, 2 for an error, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except KVPressVideoError as error:
        print(f"kvpress-video: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("kvpress-video: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvpress-video", description="KV-cache compression for video.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sweep = commands.add_parser("sweep", help="methods × budgets on generated clips: a table of accuracies")
    sweep.set_defaults(run=_sweep)
    _model_options(sweep)
    sweep.add_argument("--methods", default=TABLE_METHODS, help="a,b:setting=1,… (default: all but per-layer)")
    sweep.add_argument(
        "--budgets", default=TABLE_BUDGETS, help="ratios, visual entries or bytes (default: %(default)s)"
    )
    sweep.add_argument("--clips", type=int, default=CLIPS, metavar="N", help="(default: %(default)s)")
    sweep.add_argument("--frames", type=int, default=FRAMES, metavar="T", help="per clip (default: %(default)s)")
    sweep.add_argument("--camera", choices=("both", "still", "moving"), default="both")
    sweep.add_argument("--seed", type=int, metavar="S", help="of the first clip (default: the first held-out one)")
    sweep.add_argument("--out", type=Path, default=Path("sweep"), metavar="DIR", help="(default: %(default)s)")
    sweep.add_argument("--against", default="full", metavar="METHOD", help="compare with it (default: %(default)s)")
    sweep.add_argument("--workers", type=int, metavar="N", help="processes (default: 2 on a CPU, 1 on a GPU)")
    _cache_options(sweep)

    ask = commands.add_parser("ask", help="one question about one video")
    ask.set_defaults(run=_ask)
    ask.add_argument("clip", type=Path, metavar="CLIP")
    ask.add_argument("question")
    _model_options(ask)
    ask.add_argument("--method", default="full", help="name or name:setting=value,… (default: %(default)s)")
    ask.add_argument("--budget", help="'25%%', 6144 (visual entries) or 256MiB; not needed for full")
    ask.add_argument("--fps", type=float, help="frames to take per second (default: 2, or all where there are fewer)")
    ask.add_argument("--frames", type=int, help="frames to take in all")
    ask.add_argument("--start", type=float, metavar="SECONDS")
    ask.add_argument("--end", type=float, metavar="SECONDS")
    ask.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    _cache_options(ask)

    run = commands.add_parser(
        "run",
        help="a command of yours, with the models that it loads compressed",
        usage="%(prog)s --method METHOD --budget BUDGET [OPTION …] -- COMMAND …",
        description="Run a command, such as a server, unchanged: every supported model that it loads is compressed.",
    )
    run.set_defaults(run=_run)
    run.add_argument("--method", required=True, help="name or name:setting=value,…")
    run.add_argument("--budget", required=True, help="'25%%', 6144 (visual entries) or 256MiB")
    run.add_argument("--prefill", metavar="HOW", help="auto, chunked, split or whole (default: auto)")
    run.add_argument("--chunk", type=int, metavar="N", help="visual tokens per chunk (default: a third of the budget)")
    _cache_options(run)
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="the program and its arguments")

    methods = commands.add_parser("methods", help="the installed methods and their settings")
    methods.set_defaults(run=_methods)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="PATH", help="folder or hub name (default: the bundled model)")
    parser.add_argument("--device", help="(default: cuda if there is one, else cpu)")
    parser.add_argument("--dtype", help="of the weights, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument("--attention", help="sdpa, eager, flash_attention_2")


def _cache_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=("cache", "input"), default="cache")
    parser.add_argument("--positions", choices=("keep", "compact"), default="keep")


def _sweep(options: argparse.Namespace) -> int:
    _quiet()
    from .sweep.tasks import make_cells, split_methods

    cells = make_cells(split_methods(options.methods), [part.strip() for part in options.budgets.split(",") if part])
    from rich.console import Console

    from kvpress_video.benchmarks.world import HELD_OUT_SEED, make_clips

    from .sweep.report import notes, tables
    from .sweep.sweep import run_sweep
    from .sweep.worker import Setup

    seed = HELD_OUT_SEED if options.seed is None else options.seed
    try:
        clips = make_clips(options.clips, options.frames, options.camera, seed, folder=options.out / "clips")
    except (ValueError, OSError) as error:
        raise KVPressVideoError(str(error)) from error
    setup = Setup(options.model, options.device, options.dtype, options.attention, options.stage, options.positions)
    with _progress() as bar:
        task = bar.add_task("loading the model", total=len(cells) * len(clips))

        def show(done: int, total: int, cell: str) -> None:
            bar.update(task, completed=done, total=total, description=cell)
            if not bar.console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                print(f"{done} of {total} cells × clips done", file=sys.stderr)

        done = run_sweep(
            cells, clips, options.out, setup, workers=options.workers, progress=show, against=options.against
        )
    console = Console(highlight=False)
    for table in tables(done.lines):
        natural = console.measure(table, options=console.options.update(width=WIDE)).maximum
        console.width = max(console.width, natural)
        console.print(table)
    for note in notes(done.lines):
        console.print(note, markup=False, soft_wrap=True)
    print(f"{done.done} of {done.jobs} cells × clips; rows.jsonl, summary.csv and table.md are in {done.folder}")
    if done.interrupted:
        print("Interrupted: the same command takes the sweep up where it stopped.")
        return INTERRUPTED
    return CELLS_FAILED if done.failures else DONE


def _ask(options: argparse.Namespace) -> int:
    _quiet()
    from .ask import ask
    from .bundled import load_bundled
    from .loading import load
    from .registry import make_method
    from .video import frame_rate, read_video

    make_method(options.method)
    fps = options.fps
    if fps is None and options.frames is None:
        fps = min(USUAL_FPS, frame_rate(options.clip))
    video = read_video(options.clip, fps=fps, frames=options.frames, start=options.start, end=options.end)
    how = {"device": options.device, "dtype": options.dtype, "attention": options.attention}
    model, processor = load_bundled(**how) if options.model is None else load(options.model, **how)
    answer = ask(
        model,
        processor,
        video,
        options.question,
        method=options.method,
        budget=options.budget,
        stage=options.stage,
        positions=options.positions,
        max_new_tokens=options.max_new_tokens,
    )
    print(answer.text)
    print(f"{len(video)} frames; {answer.report}; {answer.seconds:.2f} s")
    return DONE


def _run(options: argparse.Namespace) -> int:
    from .integrations.launch import launch

    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    names = ("stage", "prefill", "chunk", "positions")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    launch(command, options.method, options.budget, **chosen)


def _methods(options: argparse.Namespace) -> int:
    from dataclasses import MISSING, fields

    from .registry import method_class, method_names

    for name in method_names():
        try:
            found = method_class(name)
        except Exception as error:
            print(f"{name}\n    cannot be loaded: {error}")
            continue
        settings = [f"{f.name}" if f.default is MISSING else f"{f.name}={f.default!r}" for f in fields(found)]
        print(f"{name}\n    {(found.__doc__ or '').strip().splitlines()[0]}")
        print(f"    settings: {', '.join(settings) or 'none'}; stages: {', '.join(found.stages)}")
        if found.source:
            print(f"    source: {found.source}")
    return DONE


def _quiet() -> None:
    """Keep transformers and the hub from talking, here and in worker processes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _progress() -> Progress:
    """A bar on stderr, so that stdout holds the table alone."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


if __name__ == "__main__":
    sys.exit(main())
