"""Reports: a self-contained page per sweep, its figures, and the retained patches drawn over the frames."""

from .curves import draw_curves
from .heatmap import draw_heatmap
from .overlay import draw_overlay
from .page import write_report
from .pareto import draw_pareto
from .ranking import compare_with_best
from .retained import Overlay, Retained, look

__all__ = [
    "Overlay",
    "Retained",
    "compare_with_best",
    "draw_curves",
    "draw_heatmap",
    "draw_overlay",
    "draw_pareto",
    "look",
    "write_report",
]
