"""`kvpress-video probe`: measure how the layers of a model use visual tokens, on clips of the bundled world."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli.common import DONE, load_model, model_options, print_tables, quiet, whole_number
from ...cli.parsers import Commands, add_command

if TYPE_CHECKING:
    from rich.table import Table


def add(commands: Commands) -> None:
    """Add the command."""
    probe = add_command(
        commands,
        "probe",
        help="measure how the layers of a model use visual tokens",
        description="Measure how the layers of a model use visual tokens, on clips of the bundled world and "
        "without compression.",
        examples=("homogeneity", "variation PATH --store PATH"),
    )
    kinds = probe.add_subparsers(dest="probe", required=True, metavar="PROBE")
    homogeneity = kinds.add_parser(
        "homogeneity",
        help="measure the similarity of visual tokens by depth",
        description="Measure the similarity of visual tokens, layer by layer.",
    )
    homogeneity.add_argument("--figure", type=Path, metavar="FILE", help="figure to write: .svg, .png or .pdf")
    homogeneity.set_defaults(run=_homogeneity)
    variation = kinds.add_parser(
        "variation",
        help="calibrate pooling by variation (van, infinipot-v)",
        description="Measure how much the values of visual tokens vary, layer by layer, and derive thresholds for "
        "pooling.",
    )
    variation.add_argument("--store", type=Path, metavar="FOLDER", help="write the thresholds to its config.json")
    variation.set_defaults(run=_variation)
    swap = kinds.add_parser(
        "swap",
        help="measure in which layers questions read the video, on pairs of clips",
        description="Measure in which layers questions read the video: swap its keys and values between clips that "
        "differ in one thing.",
    )
    swap.set_defaults(run=_swap)
    margin = kinds.add_parser(
        "margin",
        help="calibrate automatic focus, and test it on other clips",
        description="Calibrate the margin of automatic focus, and test it on other clips.",
    )
    margin.add_argument("--base", default="standby", help="method that keeps entries (default: %(default)s)")
    margin.add_argument("--budget", type=whole_number(1), default=48, help="visual entries (default: %(default)s)")
    margin.add_argument("--store", type=Path, metavar="FOLDER", help="write the margin to its config.json")
    margin.set_defaults(run=_margin)
    for kind in (homogeneity, variation, swap, margin):
        model_options(kind, positional=True)
        kind.add_argument("--clips", type=whole_number(2), default=16, help="clips, or pairs (default: %(default)s)")
        kind.add_argument("--frames", type=whole_number(2), default=32, help="frames of each (default: %(default)s)")


def _states(options: argparse.Namespace) -> list[Any]:
    quiet()
    from .visual_states import states_of_clips

    model, processor = load_model(options)
    with tempfile.TemporaryDirectory() as folder:
        return list(states_of_clips(model, processor, options.clips, options.frames, Path(folder)))


def _homogeneity(options: argparse.Namespace) -> int:
    from .homogeneity import by_depth, draw, rises

    depths = by_depth(_states(options))
    kinds = ("states", "centred states")
    table = _table("after layer", *kinds)
    for depth, cells in enumerate(depths.mean(axis=1).T):
        table.add_row(str(depth) if depth else "none", *(f"{cell:.3f}" for cell in cells))
    changes = ((kind, *rises(mine)) for kind, mine in zip(kinds, depths, strict=True))
    print_tables(
        [table],
        (f"{kind}: {change:+.3f} ± {half:.3f} from first to last, 95% over clips" for kind, change, half in changes),
    )
    if options.figure is not None:
        draw(depths, options.figure)
    return DONE


def _variation(options: argparse.Namespace) -> int:
    from .variation import by_layer, store, thresholds

    variations = by_layer(_states(options))
    table = _table("layer", "std / mean of ‖V‖")
    for layer, cell in enumerate(variations.mean(axis=0)):
        table.add_row(str(layer), f"{cell:.4f}")
    found = thresholds(variations)
    print_tables([table], [f"thresholds=({', '.join(f'{each:.4f}' for each in found)})"])
    if options.store is not None:
        store(options.store, found)
    return DONE


def _swap(options: argparse.Namespace) -> int:
    quiet()
    from .swap import profiles, shares
    from .visual_states import SEED

    model, processor = load_model(options)
    found = profiles(model, processor, range(SEED, SEED + options.clips), options.frames)
    layers = range(len(next(iter(found.values())).alone))
    table = _table(
        "family", "pairs", *(f"layer {layer}" for layer in layers), *(f"{layer} onwards" for layer in layers)
    )
    for family, mine in found.items():
        cells = ("{:.2f} [{:.2f}, {:.2f}]".format(*mine.interval(flips)) for flips in (*mine.alone, *mine.onwards))
        table.add_row(family, str(mine.count), *cells)
    written = ", ".join(f"{share:.2f}" for share in shares(found))
    print_tables([table], ["Share of pairs whose answer became the other clip's (95% interval)", f"shares=({written})"])
    return DONE


def _margin(options: argparse.Namespace) -> int:
    quiet()
    from . import calibration
    from .margin import MARGIN, ask_clips, least_margin, rows, summary

    model, processor = load_model(options)
    with tempfile.TemporaryDirectory() as folder:
        clips = make_probe_clips(options, Path(folder))
        third = max(1, len(clips) // 3)
        calibrated = least_margin(ask_clips(model, processor, options.base, options.budget, clips[:third], None))
        found = ask_clips(model, processor, options.base, options.budget, clips[third:], calibrated)
    table = _table("frames retrieved", "accuracy", "ms of CPU time", "questions with frames")
    for row in rows(found):
        table.add_row(*row)
    print_tables([table], [summary(found), f"margin={calibrated:.2f}, calibrated on {third} other clips"])
    if options.store is not None:
        calibration.store(options.store, MARGIN, calibrated)
    return DONE


def make_probe_clips(options: argparse.Namespace, folder: Path) -> Any:
    """Make the clips of the world that probes use."""
    from ..world import make_clips
    from .visual_states import SEED

    return make_clips(options.clips, options.frames, seed=SEED, folder=folder)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
