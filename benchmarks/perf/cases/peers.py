"""Comparison with kvpress on the same model and prompt, and with InfiniPot-V as released by its authors.

kvpress evicts three quarters of all entries, text included; here three quarters of the video are evicted and text
stays. A prefill is measured in the text model, compression included, with the default prefill of a ratio. A pass
compresses one layer of the 7B shape once, as after a one-shot prefill. The released InfiniPot-V keeps three quarters,
as in its paper: it cannot keep fewer than twice its recent frames. kvpress needs older packages than the rest of the
benchmarks: `make bench-peers` runs this in an environment of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.registry import make_method
from kvpress_video.errors import BenchmarkError

from ..results.measurement import Figure, Goal
from ..setup.released_infinipot_v import compress as released
from ..setup.scales import Bed
from ..setup.text_prefill import MeterOf, TextPrefill
from ..setup.timing import BusyClock, PeakMemory, interleaved, measured, peak_bytes, single_thread
from .compress_pass import COLUMNS, ROWS, TEXT, WIDTH, Layer

EVICTED = 0.75
_RELEASED_KEEPS = 0.75
_WINDOW = 32
_ROUNDS = 3  # at most: a prefill is long
_PEERS = {"key-norm": "KnormPress", "snapkv": "SnapKVPress"}
_RELEASED = "the released formula"


def run(bed: Bed) -> Iterator[Figure]:
    """Measure time and peak memory of each peer and of this package.

    Raises:
        BenchmarkError: kvpress is not installed.
    """
    if importlib.util.find_spec("kvpress") is None:
        raise BenchmarkError("peers compares with kvpress, which is not installed here: run `make bench-peers`.")
    kvpress = importlib.import_module("kvpress")
    logging.getLogger("kvpress").setLevel(logging.ERROR)  # kvpress warns about models it was not tested with
    with torch.inference_mode():
        for length in bed.scale.entries:
            yield from _passes(bed, kvpress, length)
    with torch.no_grad():
        model = bed.deep().model()[0]
        for tokens in bed.scale.mode_tokens[:2]:
            yield from _prefills(bed, kvpress, model, tokens)


def _prefills(bed: Bed, kvpress: Any, model: Any, tokens: int) -> Iterator[Figure]:
    prefill = TextPrefill(model, tokens)
    contexts: dict[str, Callable[[], Any]] = {}
    for method, press in presses(kvpress, model).items():
        contexts[method] = partial(kv.compress, model, method, f"{100 * (1 - EVICTED):g}%")
        contexts[_PEERS[method]] = partial(press, model)

    def measure(name: str, meter: MeterOf) -> float:
        return prefill.within(contexts[name](), meter)

    with single_thread():
        peaks = {name: measure(name, PeakMemory) for name in contexts}
        works = {name: partial(measure, name, BusyClock) for name in contexts}
        spent = interleaved(works, min(bed.scale.rounds, _ROUNDS), warm_up=0)
    yield from _against("prefill", f"{tokens:,} visual tokens", _PEERS, spent, peaks, "kvpress's")


def presses(kvpress: Any, model: Any) -> dict[str, Any]:
    """The presses of kvpress, by the name of the same method here."""
    section = 2 * list(model.get_decoder().config.rope_scaling["mrope_section"])

    class MergedSnapKV(kvpress.SnapKVPress):
        """SnapKV for M-RoPE: the model passes one rotation per axis, but kvpress expects the merged one."""

        def score(self, *states: Any) -> Tensor:
            *others, kwargs = states
            merged = [_merged(part, section) for part in kwargs["position_embeddings"]]
            scores: Tensor = super().score(*others, {**kwargs, "position_embeddings": merged})
            return scores

    return {
        "key-norm": kvpress.KnormPress(compression_ratio=EVICTED),
        "snapkv": MergedSnapKV(compression_ratio=EVICTED, window_size=_WINDOW),
    }


def _merged(rotation: Tensor, section: list[int]) -> Tensor:
    """(3, batch, n, head_dim) -> (batch, n, head_dim)."""
    return torch.cat([part[i % 3] for i, part in enumerate(rotation.split(section, dim=-1))], dim=-1)


def _passes(bed: Bed, kvpress: Any, length: int) -> Iterator[Figure]:
    layer = Layer(length, bed.device, roomy=False)
    keys, values = layer.states
    patches, keep = ROWS * COLUMNS, int(_RELEASED_KEEPS * layer.length)
    press, module = kvpress.KnormPress(compression_ratio=EVICTED), SimpleNamespace(head_dim=WIDTH)
    ready: dict[str, Callable[[], Callable[[], Any]]] = {
        "key-norm": lambda: layer.pass_of(make_method("key-norm")),
        "KnormPress": lambda: partial(press.compress, module, None, keys, values, None, {}),
        "infinipot-v": lambda: layer.pass_of(make_method("infinipot-v:released"), keep),
        _RELEASED: lambda: partial(released, keys, values, TEXT, patches, keep),
    }
    ours = {"key-norm": "KnormPress", "infinipot-v": _RELEASED}
    rounds = bed.scale.rounds * max(bed.scale.entries) // length  # short passes vary more
    works = {name: partial(_pass_seconds, make, bed.device) for name, make in ready.items()}
    with single_thread():
        spent = interleaved(works, rounds)
        peaks = {name: peak_bytes(make(), bed.device) for name, make in ready.items()}
    yield from _against("pass", f"{layer.length:,} entries", ours, spent, peaks, "the peer's")


def _pass_seconds(ready: Callable[[], Callable[[], Any]], device: torch.device) -> float:
    return measured(ready(), BusyClock(device))


def _against(
    work: str,
    at: str,
    pairs: Mapping[str, str],
    spent: Mapping[str, list[float]],
    peaks: Mapping[str, float],
    whose: str,
) -> Iterator[Figure]:
    packages = {"kvpress": version("kvpress"), "threads": 1}
    for name, taken in spent.items():
        raw = {"rounds": len(taken), "peak_bytes": peaks[name], **packages}
        yield Figure("peers", f"{name}, {at}", f"time of a {work}", 1e3 * median(taken), "ms", raw=raw)
        yield Figure("peers", f"{name}, {at}", f"peak memory of a {work}", peaks[name] / 2**20, "MiB", raw=raw)
    for method, peer in pairs.items():
        raw = {
            "seconds": spent[method], "peer_seconds": spent[peer], "peak_bytes": peaks[method],
            "peer_peak_bytes": peaks[peer], **packages,
        }  # fmt: skip
        ratio = median(mine / theirs for mine, theirs in zip(spent[method], spent[peer], strict=True))
        case = f"{method} and {peer}, {at}"
        yield Figure("peers", case, f"time of a {work} ÷ {whose}", ratio, "×", Goal(1), raw=raw)
        yield Figure(
            "peers", case, f"peak memory of a {work} ÷ {whose}", peaks[method] / peaks[peer], "×", Goal(1), raw=raw
        )  # fmt: skip
