"""The pass: compressing one layer, against copying its keys and values once.

A layer of Qwen2.5-VL-7B (four KV heads of 128, bf16) holds thirty text entries and a video of 9 × 18 = 162 patches a
frame; a quarter of the video stays. The copy goes into memory that is there already. Scratch is what the pass holds
at its fullest beyond the layer, against the bytes of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from kvpress_video.cache import CompressedLayer
from kvpress_video.chunk import Chunk, Row, text_tags
from kvpress_video.compressor import Compressor
from kvpress_video.entries import Context, Grid, Places, segment_entries
from kvpress_video.reduction import Reduction
from kvpress_video.registry import make_method
from kvpress_video.rope import Rope
from kvpress_video.stopwatch import Stopwatch

from .clock import peak_bytes, seconds
from .figure import Figure, Goal
from .scales import Bed

METHODS = (
    *("tar", "van", "infinipot-v", "key-norm", "novelty", "standby", "standby-novelty", "average-pooling"),
    *("random", "uniform", "recent", "sink-window"),
)
HEADS, WIDTH, ROWS, COLUMNS, TEXT = 4, 128, 9, 18, 30
_ASKED = ("tar", "van", "infinipot-v")
_KEPT = 4  # a quarter
_RECENT = 0.25


class Layer:
    """A layer to be compressed, over and over.

    Attributes:
        length: visual entries.
        bytes: of its keys and values.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        frames = length // (ROWS * COLUMNS)
        grid = Grid(frames, ROWS, COLUMNS)
        self.length = grid.tokens
        random = torch.Generator(device).manual_seed(0)
        shape = (1, HEADS, TEXT + self.length, WIDTH)
        self._states = [torch.randn(shape, generator=random, device=device).to(torch.bfloat16) for _ in range(2)]
        self.bytes = sum(states.numel() * states.element_size() for states in self._states)
        importance = torch.rand(self.length, generator=random, device=device)
        keys, values = (part[:, :1, TEXT:] for part in self._states)
        video = segment_entries(keys, values, grid, Context(), importance)
        index = torch.arange(TEXT, device=device, dtype=torch.int32)[None]
        tags = torch.cat([text_tags(index), video.tags[:, 0]], dim=1)
        tags[:, TEXT:, 0] += TEXT
        places = torch.cat([index[..., None].float().expand(1, -1, Places.WIDTH), video.places[:, 0]], dim=1)
        counts = {0: self.length}
        row = Row(held=counts, seen=counts, grids={0: grid}, starts={0: TEXT})
        self._chunk = Chunk(tags, places, tags.shape[1], [row], compress=True)
        frequencies = 1e6 ** -(torch.arange(0, WIDTH, 2, device=device) / WIDTH)
        axes = torch.repeat_interleave(torch.arange(3), torch.tensor([16, 24, 24])).to(device)
        self._rope = Rope(frequencies.float(), axes)
        self._device = device
        self._layer = CompressedLayer()
        self._fill()

    def _fill(self) -> None:
        self._layer.reset()
        self._layer.incoming = self._chunk
        self._layer.update(*self._states)

    def pass_of(self, method: Compressor) -> Callable[[], Any]:
        """The work of one compression; the layer is whole again when this returns."""
        self._fill()
        reduction = Reduction(method, self._rope, Stopwatch(self._device))
        kept = [{0: self.length // _KEPT}]
        states = self._states[0][:, 0]
        return lambda: reduction.apply(
            [self._layer], 0, nn.Identity(), states, self._chunk, lambda rows, length, number: kept
        )

    def copy(self) -> Callable[[], Any]:
        """The work of copying keys and values once."""
        to = [torch.empty_like(part) for part in self._states]
        for part in to:
            part.zero_()  # memory that was never touched is not there yet
        return lambda: [whole.copy_(part) for whole, part in zip(to, self._states, strict=True)]

    def naive_tar(self) -> Callable[[], Any]:
        """The work of TaR's scores as its formula is written: every frame times every recent one, in fp32."""
        frames = self._states[0][0, :, TEXT:].unflatten(1, (-1, ROWS * COLUMNS))

        def work() -> Tensor:
            states = normalize(frames.float(), dim=-1)
            recent = states[:, -int(states.shape[1] * _RECENT) :]
            return -torch.stack([(states * one[:, None]).sum(dim=-1) for one in recent.unbind(1)]).mean(dim=0)

        return work

    def tar(self) -> Callable[[], Any]:
        """The work of TaR's scores as the method computes them."""
        self._fill()
        whole = self._layer.entries(Context(grid=self._chunk.rows[0].grids[0]))
        video, method = whole.slice(TEXT, len(whole)), make_method("tar", recent_ratio=_RECENT)
        return lambda: method.scores(video)


@torch.inference_mode()
def run(bed: Bed) -> Iterator[Figure]:
    """Figures of the pass."""
    cuda = bed.device.type == "cuda"
    for length in bed.scale.entries:
        layer = Layer(length, bed.device)
        taken = _in_turn(
            {"copy": layer.copy, **{name: _prepared(layer, name) for name in METHODS}}, bed.device, bed.scale.rounds
        )
        copied = taken["copy"]
        for name in METHODS:
            asked = name in _ASKED
            scratch = peak_bytes(layer.pass_of(make_method(name)), bed.device)
            case = f"{name}, {layer.length:,} entries"
            raw = {"seconds": taken[name], "copy_seconds": copied, "scratch_bytes": scratch, "layer_bytes": layer.bytes,
                   "kept": layer.length // _KEPT, "rounds": bed.scale.rounds}  # fmt: skip
            yield Figure(
                "pass", case, "compressing ÷ copying keys and values", taken[name] / copied, "×",
                Goal(2 if cuda else 4) if asked else None, *_floor(name, layer), raw,
            )  # fmt: skip
            yield Figure(
                "pass", case, "scratch ÷ the layer", 100 * scratch / layer.bytes, "%",
                Goal(10) if asked else None, raw=raw,
            )  # fmt: skip
        both = _in_turn({"naive": layer.naive_tar, "mean": layer.tar}, bed.device, bed.scale.rounds)
        yield Figure(
            "pass", f"tar's scores, {layer.length:,} entries", "r × f products ÷ one mean key",
            both["naive"] / both["mean"], "×", Goal(3, least=True),
            raw={f"{name}_seconds": spent for name, spent in both.items()},
        )  # fmt: skip


def _prepared(layer: Layer, name: str) -> Callable[[], Callable[[], Any]]:
    return lambda: layer.pass_of(make_method(name))


def _floor(name: str, layer: Layer) -> tuple[float, str]:
    """What has to be read and written at least, in copies."""
    read = {"tar": 0.5, "van": 0.5, "key-norm": 0.5, "novelty": 0.5, "standby-novelty": 0.5, "infinipot-v": 1,
            "average-pooling": 1}.get(name, 0)  # fmt: skip
    return read / 2 + 1 / _KEPT, "what is scored is read once, what stays is copied once; a copy reads and writes"


def _in_turn(works: dict[str, Callable[[], Callable[[], Any]]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of works that have to be made ready each time."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1 + rounds):
        for name, ready in works.items():
            spent = seconds(ready(), device)
            if number:
                taken[name].append(spent)
    return {name: median(each) for name, each in taken.items()}
