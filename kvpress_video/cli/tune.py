"""`kvpress-video tune`: the best method and settings for some clips, a budget and a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import DONE, print_tables, probability, progress_steps, quiet, whole_number
from .interrupts import INTERRUPTED
from .names import check_benchmarks, check_methods, check_models
from .parsers import Commands, add_command

if TYPE_CHECKING:
    from ..sweep.tune.answers import Target

_PARTS = ("stage", "prefill", "positions", "labels", "experts", "device", "batch", "max_new_tokens")


def add(commands: Commands) -> None:
    """Add the command."""
    tune = add_command(
        commands,
        "tune",
        help="find the best method and settings for your clips, budget and model",
        description="Try methods and settings on some of a benchmark's clips by successive halving, and measure the "
        "best on the others. Needs kvpress-video[tune].",
        examples=("25% --methods infinipot-v,tar,van --out tuning",),
    )
    tune.set_defaults(run=_tune)
    tune.add_argument("budget", metavar="BUDGET", help="25%%, 6144 visual entries, or 256MiB")
    tune.add_argument("--benchmark", default="world", help="your clips: name:option=value,… (default: %(default)s)")
    tune.add_argument("--model", default="bundled", help="bundled, a folder or a hub name, with settings (bundled)")
    tune.add_argument("--methods", default="", help="methods to choose from; given settings are fixed (default: all)")
    tune.add_argument("--seed", type=whole_number(0), default=0, help="seed of clips and proposals (default: 0)")
    search = tune.add_argument_group("search")
    search.add_argument(
        "--rounds",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="rounds: the first tries defaults and presets of every method, later ones settings (default: %(default)s)",
    )
    search.add_argument(
        "--candidates",
        type=whole_number(3),
        default=27,
        metavar="N",
        help="number of candidates per later round (default: %(default)s)",
    )
    search.add_argument(
        "--held-out",
        type=probability,
        default=1 / 3,
        metavar="FRACTION",
        help="fraction of videos to hold out (default: 1/3)",
    )
    setup = tune.add_argument_group("setup, as in a sweep")
    for name in ("stage", "prefill", "positions", "labels", "device"):
        setup.add_argument(f"--{name}")
    setup.add_argument("--experts", type=int, metavar="N")
    setup.add_argument("--batch", type=int, metavar="N")
    setup.add_argument("--max-new-tokens", type=int, metavar="N")
    run = tune.add_argument_group("run")
    run.add_argument("--out", type=Path, default=Path("tuning"), metavar="DIR", help="output folder (%(default)s)")
    run.add_argument("--resume", action="store_true", help="resume the tuning in the output folder")
    run.add_argument("--workers", type=int, metavar="N", help="as in a sweep")


def _tune(options: argparse.Namespace) -> int:
    check_methods(options.methods)
    check_benchmarks(options.benchmark)
    check_models(options.model)
    quiet()
    from ..sweep.tune.text import line_to_paste, notes, table
    from ..sweep.tune.tuner import tune

    target = _target(options)
    how = {name: getattr(options, name) for name in ("rounds", "candidates", "held_out", "resume", "workers")}
    try:
        with progress_steps("preparing clips") as update:
            found = tune(target, options.out, progress=update, **how)
    except KeyboardInterrupt:
        print("Interrupted: the same command with --resume continues.")
        return INTERRUPTED
    print_tables([table(found)], notes(found))
    print(line_to_paste(found))
    return DONE


def _target(options: argparse.Namespace) -> Target:
    from ..compressor.registry import method_names
    from ..sweep.cells import Setup
    from ..sweep.grid.flags import flag_parts, grid_of_flags
    from ..sweep.tune.answers import Target
    from ..sweep.tune.space import usable
    from ..utils.named_settings import split_list

    methods = split_list(options.methods) or usable(method_names(), options.stage or Setup.stage)
    parts = flag_parts(**{name: getattr(options, name) for name in _PARTS})
    given = {"methods": methods, "budgets": [options.budget], "models": [options.model], **parts}
    grid = grid_of_flags(
        {**given, "benchmarks": [options.benchmark]}, budgets="BUDGET", models="--model", benchmarks="--benchmark"
    )
    return Target(grid.models[0], grid.benchmarks[0], grid.budgets[0], grid.methods, options.seed, grid.setup)
