"""What was asked of each benchmark, and which figures say whether it is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .measurement import Figure


@dataclass(frozen=True)
class Asked:
    """One goal.

    Attributes:
        benchmark: whose figures it is about.
        what: is to be so.
        goal: in words.
        figures: how `Figure.what` begins in those that say it.
        gpu: whether it was asked of a GPU only.
    """

    benchmark: str
    what: str
    goal: str
    figures: tuple[str, ...]
    gpu: bool = False

    def of(self, figures: Sequence[Figure]) -> list[Figure]:
        """Those that say it; where nothing was asked on their device, all that would."""
        found = [one for one in figures if one.benchmark == self.benchmark and one.what.startswith(self.figures)]
        return found if self.gpu else [one for one in found if one.goal is not None]


ASKED = (
    Asked(
        "pass",
        "time of `tar`, `van` and `infinipot-v` on a layer ÷ copying its keys and values once",
        "≤ 2 × on a GPU, ≤ 4 × on a CPU",
        ("compressing ÷ copying",),
    ),
    Asked("pass", "their scratch memory, of the layer's bytes", "≤ 10 %", ("scratch ÷",)),
    Asked("pass", "TaR's formula as it is written ÷ with one mean key", "≥ 3 ×", ("r × f products ÷",)),
    Asked(
        "stream",
        "peak memory over the stream (on a CPU: of the process), more than after its first minute",
        "≤ 1 %",
        ("peak memory of torch", "resident memory"),
    ),
    Asked("stream", "less memory than the full cache after an hour", "≥ 94 %", ("less than keys and values",)),
    Asked("stream", "compression's share of frame time", "≤ 0.25 %", ("share of frame time",)),
    Asked("stream", "frames per second, vision tower included", "≥ 30 fps on an H200", ("frames (",), gpu=True),
    Asked(
        "prefill",
        "the text model's prefill with 8 of 324 tokens a frame ÷ with all",
        "≤ 4.6 %",
        ("text model's prefill ÷",),
    ),
    Asked("decode", "tokens per second in equal memory, capped ÷ full caches", "≥ 10 ×", ("tokens per second ÷",)),
    Asked(
        "answer",
        "question to first token after an hour of stream",
        "≤ 30 ms on an H200",
        ("question to first token",),
        gpu=True,
    ),
    Asked(
        "overhead", "`key-norm` and `snapkv` through the hooks, more than inline", "≤ 3 %", ("more time than inline",)
    ),
    Asked("sweep", "seconds of prefill, a run per cell ÷ one that all share", "≥ 5 ×", ("seconds of prefill,",)),
)
