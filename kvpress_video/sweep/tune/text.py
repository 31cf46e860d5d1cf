"""The outcome of tuning as a table, notes and a line to paste."""

from __future__ import annotations

from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ...utils.formatting import plural
from ..cells import Setup
from ..formatting import interval, short
from ..stats.inference import detectable
from .tuner import Tuned

_OF_COMPRESS = ("stage", "prefill", "positions", "labels", "experts")


def table(found: Tuned) -> Table:
    """Build a table of the finalists and the full cache."""
    made = Table("", "method", box=SIMPLE_HEAD, pad_edge=False)
    for name in (f"tuning, {plural(found.tuning_clips, 'clip')}", f"held out, {plural(found.held_out_clips, 'clip')}"):
        made.add_column(name, justify="right", no_wrap=True)
    for place, each in zip(("winner", "runner-up"), found.finalists, strict=False):
        made.add_row(place, escape(each.method), interval(each.tuning), interval(each.held_out))
    made.add_row("", "full cache", "", interval(found.full))
    return made


def notes(found: Tuned) -> list[str]:
    """Explain the results, the certainty of the winner, and the failed candidates."""
    lines = [
        f"{plural(found.tried, 'candidate')} at {found.target.budget} on {found.target.benchmark}. The winner is the "
        "best of them on the tuning clips, so its figure there is too high; that of the held-out clips is not.",
    ]
    if found.difference is not None:
        lines.append(
            f"Winner minus runner-up on the held-out clips: {interval(found.difference, '+')}; differences of "
            f"{short(detectable(found.difference))} or more are found with 80% power."
        )
    lines += [f"Not ranked: {method}: {error}" for method, error in found.failed.items()]
    return lines


def line_to_paste(found: Tuned) -> str:
    """Write the call that compresses as the winner did."""
    chosen, usual = asdict(found.target.setup), asdict(Setup())
    how = "".join(f", {name}={chosen[name]!r}" for name in _OF_COMPRESS if chosen[name] != usual[name])
    call = f"kv.compress(model, {found.winner.method!r}, {found.target.budget!r}{how})"
    return call.replace("'", '"')
