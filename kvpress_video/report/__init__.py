"""What people look at: one self-contained page per sweep, its figures, and the retained patches over the frames."""

from .curves import draw_curves
from .heatmap import draw_heatmap
from .overlay import draw_overlay
from .page import write_report
from .pareto import draw_pareto
from .ranking import rivals
from .retained import Overlay, Retained, look

__all__ = [
    "Overlay",
    "Retained",
    "draw_curves",
    "draw_heatmap",
    "draw_overlay",
    "draw_pareto",
    "look",
    "rivals",
    "write_report",
]
