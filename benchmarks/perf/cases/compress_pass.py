"""One compression pass over a layer, against one copy of its keys and values.

A layer of Qwen2.5-VL-7B (four KV heads of 128, bf16) holds thirty text entries and a video of 9 × 18 = 162 patches a
frame; a quarter of the video is kept. The copy goes into allocated memory. The layer keeps its buffers, as under a cap;
moving to smaller buffers, as after a one-shot compression, is measured as well. Scratch is the peak memory of the pass
beyond the layer and its new buffers, in bytes of its keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kvpress_video.attention.layer_compressor import LayerCompressor
from kvpress_video.cache.allocation import Share
from kvpress_video.cache.forward_pass import ForwardPass, RowState, text_tags
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Context, Grid, Places, segment_entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.compressor.rope import Rope
from kvpress_video.utils.timing import DeviceTimer

from ..results.measurement import Figure, Goal
from ..setup.scales import Bed
from ..setup.timing import peak_bytes, seconds

METHODS = (
    *("tar", "van", "infinipot-v", "key-norm", "novelty", "standby", "standby-novelty", "average-pooling"),
    *("random", "uniform", "recent", "sink-window"),
)
HEADS, WIDTH, ROWS, COLUMNS, TEXT = 4, 128, 9, 18, 30
_ASKED = ("tar", "van", "infinipot-v")
_KEPT = 4  # a quarter
_RECENT = 0.25


class Layer:
    """A layer that can be filled and compressed repeatedly.

    Attributes:
        length: visual entries.
        states: its keys and values, (1, kv_heads, text + visual, head_dim) each.
        bytes: bytes of its keys and values.
    """

    def __init__(self, length: int, device: torch.device, roomy: bool = True) -> None:
        """Make random keys, values and metadata.

        Args:
            length: visual entries, rounded down to whole frames.
            device: device of all tensors.
            roomy: whether the layer keeps its buffers, as under a cap; else it moves to smaller ones, as after a
                one-shot compression.
        """
        frames = length // (ROWS * COLUMNS)
        grid = Grid(frames, ROWS, COLUMNS)
        self.length = grid.tokens
        random = torch.Generator(device).manual_seed(0)
        shape = (1, HEADS, TEXT + self.length, WIDTH)
        self.states = [torch.randn(shape, generator=random, device=device).to(torch.bfloat16) for _ in range(2)]
        self.bytes = sum(states.numel() * states.element_size() for states in self.states)
        importance = torch.rand(self.length, generator=random, device=device)
        keys, values = (part[:, :1, TEXT:] for part in self.states)
        video = segment_entries(keys, values, grid, Context(), importance)
        index = torch.arange(TEXT, device=device, dtype=torch.int32)[None]
        tags = torch.cat([text_tags(index), video.tags[:, 0]], dim=1)
        tags[:, TEXT:, 0] += TEXT
        places = torch.cat([index[..., None].float().expand(1, -1, Places.WIDTH), video.places[:, 0]], dim=1)
        counts = {0: self.length}
        row = RowState(held=counts, seen=counts, grids={0: grid}, starts={0: TEXT})
        self._chunk = ForwardPass.of(tags, places, tags.shape[1], [row], compress=True)
        frequencies = 1e6 ** -(torch.arange(0, WIDTH, 2, device=device) / WIDTH)
        axes = torch.repeat_interleave(torch.arange(3), torch.tensor([16, 24, 24])).to(device)
        self._rope = Rope(frequencies.float(), axes)
        self._device = device
        self._layer = CompressedLayer(TEXT + self.length if roomy else 0)
        self._fill()
        self._whole_bytes = self._layer.reserved_bytes

    def _fill(self) -> None:
        self._layer.reset()
        self._layer.begin_pass(self._chunk)
        self._layer.update(*self.states)

    @property
    def gained(self) -> int:
        """Bytes of the layer's new buffers; 0 if it kept its own."""
        return 0 if self._layer.reserved_bytes == self._whole_bytes else self._layer.reserved_bytes

    def raw(self, spent: float, copied: float, rounds: int) -> dict[str, Any]:
        """Raw numbers of a figure."""
        return {"seconds": spent, "copy_seconds": copied, "layer_bytes": self.bytes, "kept": self.length // _KEPT,
                "rounds": rounds}  # fmt: skip

    def pass_of(self, method: Compressor, keep: int | None = None) -> Callable[[], Any]:
        """Fill the layer and return the work of compressing it to `keep` visual entries, a quarter by default."""
        self._fill()
        reduction = LayerCompressor(method, self._rope, DeviceTimer(self._device))
        kept = [{0: Share(self.length // _KEPT if keep is None else keep)}]
        states = self.states[0][:, 0]

        def work() -> None:
            entries = reduction.held([self._layer], self._layer, nn.Identity(), states, self._chunk)
            reduction.apply(self._layer, entries, self._chunk, lambda rows, length, number: kept)

        return work

    def copy(self) -> Callable[[], Any]:
        """Return the work of copying keys and values once."""
        to = [torch.empty_like(part) for part in self.states]
        for part in to:
            part.zero_()  # touch the memory, so that the system maps it now
        return lambda: [whole.copy_(part) for whole, part in zip(to, self.states, strict=True)]

    def naive_tar(self) -> Callable[[], Any]:
        """Return the work of TaR's scores by the letter of its formula: every frame times every recent one, in fp32."""
        frames = self.states[0][0, :, TEXT:].unflatten(1, (-1, ROWS * COLUMNS))

        def work() -> Tensor:
            states = normalize(frames.float(), dim=-1)
            recent = states[:, -int(states.shape[1] * _RECENT) :]
            return -torch.einsum("hfpd,hrpd->hpfr", states, recent).mean(dim=-1)

        return work

    def tar(self) -> Callable[[], Any]:
        """Return the work of TaR's scores as the method computes them."""
        self._fill()
        whole = self._layer.entries(Context(grid=self._chunk.rows[0].grids[0]))
        video, method = whole.slice(TEXT, len(whole)), make_method("tar", recent_ratio=_RECENT)
        return lambda: method.scores(video)


@torch.inference_mode()
def run(bed: Bed) -> Iterator[Figure]:
    """Measure time and scratch of every method, and TaR's two forms."""
    for length in bed.scale.entries:
        rounds = bed.scale.rounds * max(bed.scale.entries) // length  # short ones vary more
        layer, moving = Layer(length, bed.device), Layer(length, bed.device, roomy=False)
        taken = _in_turn(
            {
                "copy": layer.copy,
                **{name: _prepared(layer, name) for name in METHODS},
                **{f"{name}, moving": _prepared(moving, name) for name in _ASKED},
            },
            bed.device,
            rounds,
        )
        for name in METHODS:
            case = f"{name}, {layer.length:,} entries"
            yield from _figures(layer, name, case, "", taken[name], taken["copy"], rounds, bed)
        for name in _ASKED:
            case, spent = f"{name}, {layer.length:,} entries", taken[f"{name}, moving"]
            yield from _figures(moving, name, case, ", moving to smaller buffers", spent, taken["copy"], rounds, bed)
        both = _in_turn({"naive": layer.naive_tar, "mean": layer.tar}, bed.device, rounds)
        yield Figure("pass", f"tar's scores, {layer.length:,} entries", "r × f products ÷ one mean key",
                     both["naive"] / both["mean"], "×", Goal(3, least=True),
                     raw={f"{name}_seconds": spent for name, spent in both.items()})  # fmt: skip


def _figures(
    layer: Layer, name: str, case: str, how: str, spent: float, copied: float, rounds: int, bed: Bed
) -> Iterator[Figure]:
    """Time and scratch of one method on one layer."""
    scratch = peak_bytes(layer.pass_of(make_method(name)), bed.device) - layer.gained
    raw = layer.raw(spent, copied, rounds) | {"scratch_bytes": scratch}
    limit = 2 if bed.device.type == "cuda" else 4
    yield Figure("pass", case, f"compressing ÷ copying keys and values{how}", spent / copied, "×",
                 Goal(limit) if name in _ASKED else None, _floor(name), _FLOOR_IS, raw)  # fmt: skip
    yield Figure("pass", case, f"scratch ÷ the layer{how}", 100 * scratch / layer.bytes, "%",
                 Goal(10) if name in _ASKED else None, raw=raw)  # fmt: skip


def _prepared(layer: Layer, name: str) -> Callable[[], Callable[[], Any]]:
    return lambda: layer.pass_of(make_method(name))


_FLOOR_IS = "scored data is read once, kept data is read and written once"
_SCORED = {
    "tar": 1,
    "van": 1,
    "key-norm": 1,
    "novelty": 1,
    "standby-novelty": 1,
    "infinipot-v": 2,
    "average-pooling": 2,
}


def _floor(name: str) -> float:
    """The least traffic, in copies of keys and values; metadata left out."""
    return _SCORED.get(name, 0) / 4 + 1 / _KEPT


def _in_turn(works: dict[str, Callable[[], Callable[[], Any]]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of works that need preparation before each run, interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1 + rounds):
        for name, ready in works.items():
            spent = seconds(ready(), device)
            if number:
                taken[name].append(spent)
    return {name: median(each) for name, each in taken.items()}
