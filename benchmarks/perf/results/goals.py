"""The goals of each benchmark, and the figures that decide them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .measurement import Figure


@dataclass(frozen=True)
class Target:
    """One goal.

    Attributes:
        benchmark: the benchmark that measures it.
        what: description of the quantity.
        goal: description of its limit.
        figures: prefixes of `Figure.what` of the figures that decide it.
        gpu: whether it is a goal for GPUs only.
        device: whether the figures depend on the device; else they need no GPU.
    """

    benchmark: str
    what: str
    goal: str
    figures: tuple[str, ...]
    gpu: bool = False
    device: bool = True

    def of(self, figures: Sequence[Figure]) -> list[Figure]:
        """Return the figures that decide the goal; for a GPU goal, also those of other devices."""
        found = [one for one in figures if one.benchmark == self.benchmark and one.what.startswith(self.figures)]
        return found if self.gpu else [one for one in found if one.goal is not None]


TARGETS = (
    Target(
        "pass",
        "time of `tar`, `van` and `infinipot-v` on a layer ÷ copying its keys and values once",
        "≤ 2 × on a GPU, ≤ 4 × on a CPU",
        ("compressing ÷ copying",),
    ),
    Target("pass", "their scratch memory ÷ the layer's bytes", "≤ 10 %", ("scratch ÷",)),
    Target("pass", "TaR's formula as written ÷ with one mean key", "≥ 3 ×", ("r × f products ÷",)),
    Target(
        "stream",
        "peak memory over the stream (on a CPU: of the process), growth since its first minute",
        "≤ 1 %",
        ("peak memory of torch", "resident memory"),
    ),
    Target(
        "stream", "memory saved against the full cache after an hour", "≥ 94 %", ("savings against keys and values",)
    ),
    Target("stream", "compression's share of frame time", "≤ 0.25 %", ("share of frame time",)),
    Target("stream", "frames per second, vision tower included", "≥ 30 fps on an H200", ("frames (",), gpu=True),
    Target(
        "prefill",
        "the text model's prefill with 8 of 324 tokens per frame ÷ with all",
        "≤ 4.6 %",
        ("text model's prefill ÷",),
    ),
    Target(
        "modes",
        "time of the split (25 %) and chunked prefill ÷ the stock prefill's",
        "≤ 1.05 × split, ≤ 1 × chunked",
        ("time ÷ the stock prefill's",),
    ),
    Target("modes", "their peak memory ÷ the stock prefill's", "≤ 1 ×", ("peak memory ÷ the stock prefill's",)),
    Target(
        "modes",
        "their peak memory grows with the length to the power of",
        "≤ 1.1",
        ("growth of peak memory",),
    ),
    Target("decode", "tokens per second in equal memory, capped ÷ full caches", "≥ 10 ×", ("tokens per second ÷",)),
    Target(
        "steps",
        "time of a decoding step through the hooks ÷ the stock model's",
        "≤ 1.02 ×, ≤ 1.05 × for the bundled model",
        ("time of a step ÷ stock",),
    ),
    Target(
        "answer",
        "question to first token after an hour of stream",
        "≤ 30 ms on an H200",
        ("question to first token",),
        gpu=True,
    ),
    Target(
        "overhead",
        "`key-norm` and `snapkv` through the hooks, overhead against inline",
        "≤ 3 %",
        ("overhead against inline",),
    ),
    Target("sweep", "seconds of prefill, one per cell ÷ one shared by all", "≥ 5 ×", ("seconds of prefill,",)),
    Target(
        "reading",
        "time to sample 64 frames of a file ÷ decord's",
        "≤ 1 ×",
        ("time to sample 64 frames ÷",),
        device=False,
    ),
    Target(
        "reading", "time to stream every frame ÷ decord's", "≤ 1 ×", ("time to stream every frame ÷",), device=False
    ),
    Target("reading", "memory growth of an idle reader", "≤ 8 MiB", ("memory growth",), device=False),
    Target(
        "frame",
        "compression's share of frame time at the 7B shape on an H200, computed",
        "≤ 0.25 %",
        ("compression's share of frame time, computed",),
        device=False,
    ),
    Target("peers", "time of a prefill at 25 % ÷ kvpress's", "≤ 1 ×", ("time of a prefill ÷",)),
    Target("peers", "peak memory of a prefill at 25 % ÷ kvpress's", "≤ 1 ×", ("peak memory of a prefill ÷",)),
    Target("peers", "time of a pass ÷ kvpress's, or the released InfiniPot-V's", "≤ 1 ×", ("time of a pass ÷",)),
    Target("peers", "peak memory of a pass ÷ theirs", "≤ 1 ×", ("peak memory of a pass ÷",)),
)
