"""`kvpress-video report`: write the report of a sweep, and optionally its figures and a Markdown table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..budget import UNCOMPRESSED
from .common import DONE, progress_steps, quiet, whole_number
from .parsers import Commands, add_command

KINDS = (".png", ".svg")
PAGES = (".html", ".htm")


def add(commands: Commands) -> None:
    """Add the command."""
    report = add_command(
        commands,
        "report",
        help="write the report of a sweep as one HTML file, and optionally figures and a Markdown table",
        description="Write the report of a sweep, finished or not, as one HTML file.",
        examples=("sweep", "sweep --against recent --figures figures"),
    )
    report.set_defaults(run=_report)
    report.add_argument("folder", type=Path, metavar="FOLDER", help="sweep output folder")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="page to write (default: FOLDER/report.html)")
    report.add_argument("--title", help="title of the page (default: the folder's name)")
    report.add_argument(
        "--against",
        default=UNCOMPRESSED,
        metavar="METHOD",
        help="method to compare the others with (default: %(default)s)",
    )
    report.add_argument("--figures", type=Path, metavar="DIR", help="also write the figures to DIR, as PNG and SVG")
    report.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table to FILE")
    report.add_argument(
        "--overlay-clips",
        type=whole_number(0),
        default=1,
        metavar="N",
        help="clips of each group to compress again to draw the retained patches (default: %(default)s)",
    )
    report.add_argument("--device", help="device to compress on (default: cuda if available, else cpu)")


def _report(options: argparse.Namespace) -> int:
    quiet()
    from ..errors import unknown_name
    from ..report import draw_curves, draw_heatmap, draw_pareto
    from ..report.findings import Findings
    from ..report.page import page_file
    from ..sweep.results.export import check_output, write
    from ..sweep.stats.text import markdown

    if options.out is not None and options.out.suffix.lower() not in ("", *PAGES):
        raise unknown_name("suffix of a report", options.out.suffix, PAGES)
    figures = {
        options.figures / f"{draw.__name__.removeprefix('draw_')}{kind}": draw
        for draw in (draw_curves, draw_pareto, draw_heatmap)
        for kind in (KINDS if options.figures is not None else ())
    }
    page = page_file(options.folder if options.out is None else options.out)
    for file in filter(None, (page, *figures, options.markdown)):
        check_output(file)
    with progress_steps("reading") as update:
        findings = Findings.read(options.folder, options.against)
        title = options.title or f"Sweep {options.folder.resolve().name}"
        how = {"overlay_clips": options.overlay_clips, "device": options.device}
        written = [findings.write_page(options.out, title=title, progress=update, **how)]
        written += [draw(findings.summary, file) for file, draw in figures.items()]
        if options.markdown is not None:
            write(options.markdown, markdown(findings.summary, title, findings.status).encode())
            written.append(options.markdown)
    print("\n".join(map(str, written)))
    if findings.status:
        print(findings.status, file=sys.stderr)
    return DONE
