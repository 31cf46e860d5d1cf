"""Appearance of the figures, one colour, marker and line per method, and their conversion to files and inline SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import UNCOMPRESSED
from ..errors import unknown_name
from ..utils.files import atomic_write, make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2a37", "#687386", "#dde2e9"
COLOURS = ("#0065b0", "#d55e00", "#009e73", "#d277b0", "#d99a00", "#4fb0e6", "#8f2d56", "#6f7b8a")
"""Palette of Okabe and Ito, which colour-blind readers can distinguish too."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", "h", ">", "*", "d")
_LINES = ("-", "--", "-.", ":")
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)"}
_SUFFIXES = (".svg", ".png", ".pdf")
_FONT = 9.5


@dataclass(frozen=True)
class Style:
    """Appearance of one method in every figure.

    Attributes:
        colour, marker, line: names in matplotlib.
    """

    colour: str
    marker: str
    line: str

    @property
    def path(self) -> str:
        """The marker as an SVG path, between -1 and 1, y downwards."""
        from matplotlib.markers import MarkerStyle

        marker = MarkerStyle(self.marker)
        corners = marker.get_path().transformed(marker.get_transform()).to_polygons(closed_only=False)
        scale = max(np.abs(corner).max() for corner in corners)
        pieces = ("L".join(f"{x:.2f} {-y:.2f}" for x, y in np.asarray(corner) / scale) for corner in corners)
        return "".join(f"M{piece}Z" for piece in pieces)


def assign_styles(methods: Iterable[str]) -> dict[str, Style]:
    """Assign a style to each method, in order; the first twenty differ in colour or line, neighbours in marker."""
    names = [name for name in dict.fromkeys(methods) if name != UNCOMPRESSED]
    found = {
        name: Style(
            COLOURS[number % len(COLOURS)],
            _MARKERS[number % len(_MARKERS)],
            _LINES[number // len(COLOURS) % len(_LINES)],
        )
        for number, name in enumerate(names)
    }
    return {UNCOMPRESSED: Style(INK, "*", ":"), **found}


@contextmanager
def drawing() -> Iterator[None]:
    """Apply the figures' matplotlib settings while one is made or written; no display is needed."""
    import matplotlib

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "kvpress-video",
        "pdf.fonttype": 42,
        "font.size": _FONT,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": _FONT,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "figure.dpi": 100,
        "savefig.dpi": 160,
    }
    with matplotlib.rc_context(settings):
        yield


def check_suffix(file: Path, others: tuple[str, ...] = ()) -> None:
    """Check that a figure can be written to a file.

    Args:
        file: file to write.
        others: suffixes that the caller supports as well.

    Raises:
        UnknownNameError: another suffix.
    """
    known = (*_SUFFIXES, *others)
    if file.suffix.lower() not in known:
        raise unknown_name("kind of figure", file.suffix or file.name, known)


def save(figure: Figure, file: str | Path) -> Path:
    """Write a figure atomically.

    Args:
        figure: made within `drawing()`.
        file: `.svg`, `.png` or `.pdf`.

    Raises:
        UnknownNameError: another suffix.
    """
    path = Path(file)
    check_suffix(path)
    make_folder(path.parent)
    with drawing(), atomic_write(path) as scratch:
        figure.savefig(scratch, format=path.suffix[1:].lower(), facecolor="white", metadata=_undated(path.suffix))
        if path.suffix.lower() == ".svg":
            scratch.write_text(slim(scratch.read_text("utf-8")), "utf-8")
    return path


def slim(svg: str) -> str:
    """Shorten an SVG by matplotlib without changing its look: coordinates to 0.01, and one rule for the font."""
    families = set(re.findall(r"font-family: ([^;\"]+)", svg))
    if len(families) == 1:
        svg = re.sub(r" ?font-family: [^;\"]+;?", "", svg)
        svg = svg.replace("</style>", f"text{{font-family: {families.pop()}}}</style>", 1)
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r'(?<= )(?:d|x|y)="[^"]*"', lambda found: _rounded(found[0]), svg)
    return re.sub(r"\n\s+<", "\n<", svg)


def _rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text)


def _undated(suffix: str) -> dict[str, None]:
    """Return metadata without dates, so that the same figure always makes the same file."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix.lower(), {})


class Inliner:
    """Converts figures to SVG for one page: unique ids, and colours that follow the page's theme."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(self, figure: Figure, label: str) -> str:
        """Return a figure as an `<svg>` element.

        Args:
            figure: made within `drawing()`; artists with the gid `method:NAME` get the attribute `data-method`.
            label: accessible name of the figure.
        """
        written = io.StringIO()
        with drawing():
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        text = written.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
        text = re.sub(r'id="method:([^"]*)"', r'data-method="\1"', text)
        mark = f"f{next(self._numbers)}-"
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}", text)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        width = float(re.findall(r'<svg[^>]*?\swidth="([\d.]+)pt"', text)[0])
        attributes = (
            f'role="img" aria-label="{_attribute(label)}" style="min-width:{width:.0f}px;max-width:{1.5 * width:.0f}px"'
        )
        text = re.sub(r'(<svg[^>]*?)\swidth="[\d.]+pt"', rf"\1 {attributes}", text, count=1)
        return re.sub(r'(<svg[^>]*?)\sheight="[\d.]+pt"', r"\1", text, count=1)


def _attribute(text: str) -> str:
    return escape(text, quote=True).replace("\\", "&#92;")
