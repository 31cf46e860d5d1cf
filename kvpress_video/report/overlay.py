"""The overlay figure: the patches that each method keeps, drawn over the frames of the video."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..utils.formatting import plural
from .retained import Overlay
from .style import FAINT, INK, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..video.reader import Frames

CAPTION = (
    "A patch is as bright as the share of layers and heads that kept it; evicted ones are dark. Bars: entries kept of "
    "each time step of the video, per layer and head; dark bars are the steps shown. Where a method merges entries, "
    "as average-pooling does, the patch nearest the centre of those merged stands for them."
)
_DARKNESS = 0.24  # brightness of an evicted patch, relative to its own
_LABELS, _PICTURE, _GAP, _BARS = 1.55, 0.95, 0.05, 0.34  # inches: width, width, both, height
_MARGIN, _TEXT_LINE = 0.08, 0.17  # inches


def draw_overlay(overlay: Overlay) -> Figure:
    """Draw one row of frames per method, and bars below each row for the entries kept of every time step."""
    from matplotlib.figure import Figure

    shown, height, width, _ = overlay.pictures.shape
    step, tall = _PICTURE + _GAP, _PICTURE * height / width
    across = _LABELS + shown * step + 0.3
    head = 0.74 if overlay.question else 0.52
    first, row = head + tall + 0.22, tall + _BARS + 0.26
    caption = textwrap.fill(CAPTION, int(across * 12.5))
    whole = first + len(overlay.retained) * row + 0.15 + 0.165 * (1 + caption.count("\n"))
    with drawing():
        figure = Figure(figsize=(across, whole))

        def axes(left: float, top: float, wide: float, high: float) -> Axes:
            return figure.add_axes((left / across, 1 - (top + high) / whole, wide / across, high / whole))

        def write(left: float, top: float, text: str, **how: Any) -> None:
            figure.text(left / across, 1 - top / whole, text, va="top", linespacing=1.25, **how)

        def write_label(top: float, name: str, detail: str) -> None:
            write(_MARGIN, top, name, weight="bold")
            write(_MARGIN, top + _TEXT_LINE * (1 + name.count("\n")), detail, color=FAINT)

        def show(top: float, pictures: Frames) -> None:
            for column, picture in enumerate(pictures):
                place = axes(_LABELS + column * step, top, _PICTURE, tall)
                place.imshow(picture, interpolation="none", aspect="auto")
                place.set_axis_off()

        write(_MARGIN, 0.08, overlay.title, weight="bold", fontsize=11)
        if overlay.question:
            write(_MARGIN, 0.29, f"“{overlay.question}”", color=FAINT)
        for number, time in enumerate(overlay.times[overlay.shown]):
            write(_LABELS + number * step + _PICTURE / 2, head - 0.2, f"{time:.3g} s", color=FAINT, ha="center")
        show(head, overlay.pictures)
        write_label(head, "the video", plural(overlay.frames, "frame"))
        most = max((kept.entries.max() for kept in overlay.retained), default=1)
        for number, kept in enumerate(overlay.retained):
            top = first + number * row
            answer = [] if kept.answer is None else [_wrapped(f"“{kept.answer}”")]
            write_label(top, _wrapped(kept.method), "\n".join([f"{kept.ratio * 100:.3g}% kept", *answer]))
            show(top, shaded(overlay.pictures, kept.shares[overlay.shown]))
            _bars(axes(_LABELS, top + tall + 0.05, shown * step - _GAP, _BARS), kept.entries, overlay.shown, most)
        write(_MARGIN, first + len(overlay.retained) * row + 0.02, caption, color=FAINT)
    return figure


def shaded(pictures: Frames, shares: NDArray[np.float64]) -> Frames:
    """Darken patches by how many layers and heads evicted them.

    Args:
        pictures: (shown, height, width, 3) uint8.
        shares: fraction of layers and heads that kept each patch, (shown, rows, columns).
    """
    _, height, width, _ = pictures.shape
    rows, columns = shares.shape[1:]
    spread = shares[:, np.arange(height) * rows // height][:, :, np.arange(width) * columns // width, None]
    dark = pictures.mean(axis=-1, keepdims=True) * _DARKNESS
    mixed: Frames = np.rint(dark + (pictures - dark) * np.sqrt(spread)).astype(np.uint8)
    return mixed


def _bars(place: Axes, entries: NDArray[np.float64], shown: NDArray[np.int64], most: float) -> None:
    place.stairs(entries, np.arange(len(entries) + 1) - 0.5, fill=True, color=FAINT, alpha=0.5, linewidth=0)
    place.bar(shown, entries[shown], width=1, color=INK, linewidth=0)
    place.set_xlim(-0.5, len(entries) - 0.5)
    place.set_ylim(0, most * 1.05 or 1)
    place.set_yticks([])
    place.set_xticks([])
    place.grid(visible=False)
    place.spines["left"].set_visible(False)
    place.text(1.006, 1, f"{most:.3g}", transform=place.transAxes, va="top", color=FAINT)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 19, max_lines=3, placeholder=" …")
