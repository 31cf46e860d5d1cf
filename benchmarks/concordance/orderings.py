"""Published orderings of two methods, with the figures of the papers.

Not included, because no installed method implements them: compressing to .75, .5 or .25 of a block (InfiniPot-V), and
retrieval with and without rotated keys (LiveVLM).
"""

from __future__ import annotations

from dataclasses import dataclass

INFINIPOT_V = "infinipot-v:pooling=variation"
WHOLE_FRAMES = "chunk:base=tar,rows=64,columns=64"
"""TaR by whole frames: neighbourhoods larger than any frame."""
SOURCES = {
    "InfiniPot-V": "Kim et al. 2025, arXiv 2506.15745",
    "HERMES": "Zhang et al. 2026, arXiv 2601.14724",
    "StreamMem": "Yang et al. 2025, arXiv 2508.15717",
    "POINTS-Long": "2026, arXiv 2604.11627",
    "SimpleStream": "2026, arXiv 2604.02317",
    "FluxMem": "2026, arXiv 2603.02096",
}


@dataclass(frozen=True)
class Ordering:
    """A published ordering of two methods.

    Attributes:
        better, worse: methods as a sweep names them.
        source: source of the figures, a key of `SOURCES`.
        figures: published figures of the better and the worse method, and what they measure.
        held_back: whether to evaluate it only once a benchmark and its settings are fixed.
        present: whether it concerns only questions about the present.
        fraction: budget of the better method over that of the worse one.
    """

    better: str
    worse: str
    source: str
    figures: str
    held_back: bool = False
    present: bool = False
    fraction: float = 1.0

    def __str__(self) -> str:
        less = "" if self.fraction == 1 else f" at {self.fraction:g} of the budget"
        return f"{self.better}{less} > {self.worse}" + (", on the present" if self.present else "")


ORDERINGS = (
    Ordering("tar", "uniform", "InfiniPot-V", "MLVU 64.5, 61.5"),
    Ordering("tar", "van", "InfiniPot-V", "MLVU 64.5, 63.0", held_back=True),
    Ordering("uniform", "reversed:base=tar", "InfiniPot-V", "MLVU 61.5, 55.5"),
    Ordering("van", "reversed:base=van", "InfiniPot-V", "MLVU 63.0, 55.0", held_back=True),
    Ordering("tar", WHOLE_FRAMES, "InfiniPot-V", "MLVU 64.5, 62.9", held_back=True),
    Ordering("van:pooling=variation", "van", "InfiniPot-V", "MLVU 64.1, 63.0"),
    Ordering(INFINIPOT_V, "tar:recent_ratio=0.125", "InfiniPot-V", "MLVU 65.8, 64.5", held_back=True),
    Ordering(INFINIPOT_V, "van:pooling=variation", "InfiniPot-V", "MLVU 65.8, 64.1"),
    Ordering("tar:recent_ratio=0.125", "tar:recent_ratio=0.5", "InfiniPot-V", "MLVU 63.1, 61.3", held_back=True),
    Ordering("tar", "tar:recent_ratio=0.5", "InfiniPot-V", "MLVU 63.4, 61.3"),
    Ordering(INFINIPOT_V, "snapkv:kernel=7", "InfiniPot-V", "three benchmarks at 6K 62.33, 58.45", held_back=True),
    Ordering("snapkv:kernel=7", "uniform", "InfiniPot-V", "three benchmarks at 6K 58.45, 56.98"),
    Ordering(INFINIPOT_V, "uniform", "InfiniPot-V", "three benchmarks at 6K 62.33, 56.98", held_back=True),
    Ordering(INFINIPOT_V, "uniform", "InfiniPot-V", "three benchmarks, 3K 61.15, 12K 59.51", fraction=0.25),
    Ordering(
        INFINIPOT_V, "snapkv:kernel=7", "InfiniPot-V", "three benchmarks, 3K 61.15, 12K 60.09", True, fraction=0.25
    ),
    Ordering("infinipot-v:tar_ratio=0.6,pooling=variation", "van:pooling=variation", "InfiniPot-V",
             "Video-MME 63.1, 62.1"),
    Ordering("infinipot-v:tar_ratio=0.6,pooling=variation", "tar:recent_ratio=0.125", "InfiniPot-V",
             "Video-MME 63.1, 61.7", held_back=True),
    Ordering("hermes:smoothing=(0.1, 0.3, 0.4)", "hermes", "HERMES", "Video-MME 58.4, 54.7"),
    Ordering("hermes", INFINIPOT_V, "HERMES", "StreamingBench at 4K 79.44, 76.4; two papers", held_back=True),
    Ordering("streammem", "streammem:prototypes=0.0", "StreamMem", "MLVU 66.9, 65.6"),
    Ordering("streammem", INFINIPOT_V, "StreamMem", "EgoSchema 62.4, 60.8", held_back=True),
    Ordering("standby", "average-pooling", "POINTS-Long", "at 50% 68.7, 66.7"),
    Ordering("recent", INFINIPOT_V, "SimpleStream", "OVO-Bench real-time 78.4, 65.9; two papers", True, present=True),
    Ordering("recent", "hermes", "SimpleStream", "OVO-Bench real-time 78.4, 68.98; two papers", present=True),
    Ordering("hermes", "otsu", "HERMES", "StreamingBench 79.44, 76.4; two papers", held_back=True),
    Ordering("otsu", INFINIPOT_V, "FluxMem", "OVO-Bench real-time 67.2, 65.9; two papers", present=True),
)  # fmt: skip
