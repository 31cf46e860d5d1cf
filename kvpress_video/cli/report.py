"""`kvpress-video report`: the page of a finished sweep, its figures, and its table as Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..compressor.registry import UNCOMPRESSED
from .common import DONE, Commands, quiet, showing

KINDS = (".png", ".svg")
PAGES = (".html", ".htm")


def add(commands: Commands) -> None:
    """Add the command."""
    report = commands.add_parser(
        "report",
        help="the report of a sweep: one HTML file, and if asked for figures and a Markdown table",
        description="The report of a sweep, finished or not, from what is in its folder.",
    )
    report.set_defaults(run=_report)
    report.add_argument("folder", type=Path, metavar="FOLDER", help="that the sweep wrote to")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="(default: FOLDER/report.html)")
    report.add_argument("--title", help="of the page (default: the folder's name)")
    report.add_argument(
        "--against", default=UNCOMPRESSED, metavar="METHOD", help="compare with it (default: %(default)s)"
    )
    report.add_argument("--figures", type=Path, metavar="DIR", help="write the figures there too, as PNG and SVG")
    report.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    report.add_argument(
        "--overlay-clips",
        type=int,
        default=1,
        metavar="N",
        help="clips of each group whose retained patches are drawn; they are compressed anew (default: %(default)s)",
    )
    report.add_argument("--device", help="for that (default: cuda if there is one, else cpu)")


def _report(options: argparse.Namespace) -> int:
    quiet()
    from ..errors import unknown_name
    from ..report import draw_curves, draw_heatmap, draw_pareto
    from ..report.findings import Findings
    from ..sweep.results.export import write
    from ..sweep.stats.text import markdown

    if options.out is not None and options.out.suffix.lower() not in ("", *PAGES):
        raise unknown_name("suffix of a report", options.out.suffix, PAGES)
    with showing("reading") as say:
        findings = Findings.read(options.folder, options.against)
        title = options.title or f"Sweep {options.folder.resolve().name}"
        how = {"overlay_clips": options.overlay_clips, "device": options.device}
        written = [findings.write_page(options.out, title=title, progress=say, **how)]
        if options.figures is not None:
            for draw in (draw_curves, draw_pareto, draw_heatmap):
                name = draw.__name__.removeprefix("draw_")
                written += [draw(findings.summary, options.figures / f"{name}{kind}") for kind in KINDS]
        if options.markdown is not None:
            write(options.markdown, markdown(findings.summary, title).encode())
            written.append(options.markdown)
    print("\n".join(map(str, written)))
    return DONE
