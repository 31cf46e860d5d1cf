"""Prefill modes: whole, split, chunked and input, compared with the stock model's prefill of the same prompt.

Only the text model is measured, compression included: the vision tower runs before it and costs the same in every
mode. Peak memory is what the text model allocates beyond the weights, the pixels and the embeddings it is given. Whole,
split and input keep a quarter of the video; chunked keeps a quarter of the shortest one, whatever the length. Input
drops embeddings before the text model sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch

import kvpress_video as kv

from ..results.measurement import Figure, Goal
from ..setup.scales import Bed
from ..setup.text_prefill import MeterOf, TextPrefill
from ..setup.timing import BusyClock, PeakMemory, interleaved, single_thread

METHOD, INPUT_METHOD = "infinipot-v", "uniform"
STOCK = "stock"
_RATIO, _SHARE = "25%", 4
_ROUNDS = 3  # at most: a prefill is long
_TIME = {"split": Goal(1.05), "chunked": Goal(1)}
_PEAK = {"split": Goal(1), "chunked": Goal(1)}
_GROWTH = {"split": Goal(1.1), "chunked": Goal(1.1)}


@torch.no_grad()
def run(bed: Bed) -> Iterator[Figure]:
    """Measure time and peak memory of each mode at each length, and their growth."""
    model = bed.deep().model()[0]
    ways = {
        "whole": partial(kv.compress, model, METHOD, _RATIO, prefill="whole"),
        "split": partial(kv.compress, model, METHOD, _RATIO),
        "chunked": partial(kv.compress, model, METHOD, bed.scale.mode_tokens[0] // _SHARE),
        "input": partial(kv.compress, model, INPUT_METHOD, _RATIO, stage="input"),
    }
    lengths = bed.scale.mode_tokens
    times: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for tokens in lengths:
        found, most = _at(TextPrefill(model, tokens), ways, min(bed.scale.rounds, _ROUNDS))
        yield from _figures(found, most, f"{tokens:,} visual tokens")
        for mode in found:
            times.setdefault(mode, []).append(median(found[mode]))
            peaks.setdefault(mode, []).append(most[mode])
    yield from _growth(lengths, times, peaks)


def _at(
    prefill: TextPrefill, ways: Mapping[str, Callable[[], kv.Compression]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Measure seconds of each mode in each round, and its peak memory during the warm-up."""

    def measure(mode: str, meter: MeterOf) -> float:
        return prefill.stock(meter) if mode == STOCK else prefill.within(ways[mode](), meter)

    modes = (STOCK, *ways)
    with single_thread():
        peaks = {mode: measure(mode, PeakMemory) for mode in modes}
        return interleaved({mode: partial(measure, mode, BusyClock) for mode in modes}, rounds, warm_up=0), peaks


def _figures(times: Mapping[str, Sequence[float]], peaks: Mapping[str, float], at: str) -> Iterator[Figure]:
    stock = {"stock_seconds": times[STOCK], "stock_peak_bytes": peaks[STOCK]}
    for mode, taken in times.items():
        case = f"{mode}, {at}"
        raw = {"seconds": taken, "peak_bytes": peaks[mode], "rounds": len(taken), "threads": 1, **stock}
        yield Figure("modes", case, "time of the text model's prefill", median(taken), "s", raw=raw)
        yield Figure("modes", case, "peak memory of the text model's prefill", peaks[mode] / 2**20, "MiB", raw=raw)
        if mode == STOCK:
            continue
        ratio = median(mine / theirs for mine, theirs in zip(taken, times[STOCK], strict=True))
        yield Figure("modes", case, "time ÷ the stock prefill's", ratio, "×", _TIME.get(mode), raw=raw)
        ratio = peaks[mode] / peaks[STOCK]
        yield Figure("modes", case, "peak memory ÷ the stock prefill's", ratio, "×", _PEAK.get(mode), raw=raw)


def _growth(
    lengths: Sequence[int], times: Mapping[str, Sequence[float]], peaks: Mapping[str, Sequence[float]]
) -> Iterator[Figure]:
    span = f"{lengths[0]:,} to {lengths[-1]:,} visual tokens"
    for what, values, goals in (("time", times, {}), ("peak memory", peaks, _GROWTH)):
        for mode, found in values.items():
            yield Figure(
                "modes", f"{mode}, {span}", f"growth of {what}: exponent of the length", exponent(lengths, found), "",
                goals.get(mode), raw={"lengths": lengths, "values": found},
            )  # fmt: skip


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent b of the least-squares fit values ≈ a · lengthsᵇ, in logarithms."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
