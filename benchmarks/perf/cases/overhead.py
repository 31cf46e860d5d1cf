"""Overhead of the hooks: a prefill compressed through them, against a stock prefill whose cache is compressed inline.

Both read the whole prompt in one pass (`prefill="whole"`) and end with the same entries, which is checked. The text
model is timed, compression included; the video's features come from a `SharedPrefill`, so that the vision tower does
not dilute the difference. Inline, the scores are a few lines of torch on the stock cache; SnapKV's queries are computed
from hidden states that a plain hook on each attention records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

import kvpress_video as kv
from kvpress_video.compressor.rope import Rope
from kvpress_video.errors import BenchmarkError

from ..results.measurement import Figure, Goal
from ..setup.prompts import video_prompt
from ..setup.scales import Bed
from ..setup.stock_model import StockPrefill
from ..setup.timing import interleaved, measured_calls, seconds

_WINDOW, _KERNEL = 32, 5
_KEPT = 4  # a quarter
_ROUNDS = 3  # times those of the scale: the difference is small
_ROUNDING = 1e-4


class Spent(NamedTuple):
    """Seconds of a prefill, compression included, and of the compression if known."""

    seconds: float
    compressing: float = 0.0


class Eviction(NamedTuple):
    """Scores and kept entries of one layer.

    Attributes:
        scores: scores of its visual entries, (1, kv_heads, visual).
        kept: indices of the kept entries, (1, kv_heads, n), ascending.
    """

    scores: Tensor
    kept: Tensor


class Prefill:
    """One prompt and the prefills to compare."""

    def __init__(self, bed: Bed) -> None:
        rows, columns = bed.scale.patches
        self.device = bed.device
        self.visual = bed.scale.overhead_tokens // (rows * columns) * rows * columns
        self.keep = self.visual // _KEPT
        self.model, _ = bed.model()
        self.prompt = video_prompt(self.model, self.visual // (rows * columns), rows, columns)
        self.stock = StockPrefill(self.model, self.prompt)
        where = self.prompt["input_ids"][0] == self.model.config.video_token_id
        self.first = int(where.int().argmax())
        self._once = kv.SharedPrefill()

    def timed(self, work: Callable[[], Any]) -> Spent:
        """Time a prefill without the hooks."""
        return Spent(seconds(work, self.device))

    def hooked(self, method: str) -> Spent:
        """Time a prefill through the hooks."""
        with measured_calls(self.stock.text_model, self.device) as taken, self._compressing(method) as compression:
            self.model.generate(**self.prompt, max_new_tokens=1)
        return Spent(sum(taken), compression.report.compress_seconds)

    def kept(self, method: str) -> list[Tensor]:
        """Indices of the entries kept through the hooks, per layer, (1, kv_heads, n), ascending."""
        with self._compressing(method) as compression:
            self.model.generate(**self.prompt, max_new_tokens=1)
        return compression.kept

    def _compressing(self, method: str) -> kv.Compression:
        return kv.compress(self.model, method, self.keep, prefill="whole", shared=self._once)


def key_norm(prefill: Prefill) -> list[Eviction]:
    """Keep the entries with the shortest keys after a stock prefill."""
    end = prefill.first + prefill.visual
    return [
        thin(layer, -layer.keys[:, :, prefill.first : end].float().norm(dim=-1), prefill) for layer in prefill.stock()
    ]


def snapkv(prefill: Prefill) -> list[Eviction]:
    """Keep the entries that the last queries of a stock prefill attend to."""
    layers = prefill.stock.text_model.layers
    rope, end = Rope.of(prefill.stock.text_model), prefill.first + prefill.visual
    position = prefill.stock.positions[:, None, -_WINDOW:]
    hidden: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in layers:
            note = partial(_note, hidden)
            hooks.callback(layer.self_attn.register_forward_pre_hook(note, with_kwargs=True).remove)
        cache = prefill.stock()
    found = []
    for layer, states, held in zip(layers, hidden, cache, strict=True):
        attention, keys = layer.self_attn, held.keys.float()
        queries = attention.q_proj(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        queries = rope.rotate(queries.float(), position) * (rope.scale * attention.scaling)
        logits = queries.unflatten(1, (keys.shape[1], -1)) @ keys[:, :, None].transpose(-1, -2)
        window, length = logits.shape[-2:]
        later = torch.ones(window, length, dtype=torch.bool, device=keys.device).triu(length - window + 1)
        drawn = logits.masked_fill_(later, -torch.inf).softmax(dim=-1)[..., prefill.first : end].mean(dim=(2, 3))
        found.append(thin(held, avg_pool1d(drawn, _KERNEL, stride=1, padding=_KERNEL // 2), prefill))
    return found


def _note(hidden: list[Tensor], module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    hidden.append(kwargs["hidden_states"][:, -_WINDOW:])


def thin(layer: Any, scores: Tensor, prefill: Prefill) -> Eviction:
    """Evict all but the best visual entries and the text from a layer of a stock cache."""
    chosen = scores.topk(prefill.keep, dim=-1).indices.sort(dim=-1).values + prefill.first
    text = torch.arange(layer.keys.shape[2], device=scores.device).expand(*scores.shape[:2], -1)
    before, after = text[..., : prefill.first], text[..., prefill.first + prefill.visual :]
    kept = torch.cat([before, chosen, after], dim=-1)
    index = kept[..., None].expand(-1, -1, -1, layer.keys.shape[-1])
    layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)
    return Eviction(scores, kept)


INLINE = {"key-norm": key_norm, "snapkv": snapkv}


@torch.no_grad()
def run(bed: Bed) -> Iterator[Figure]:
    """Time each method through the hooks and inline."""
    prefill = Prefill(bed)
    rounds = _ROUNDS * bed.scale.rounds
    swapped = {name: differing(prefill, name) for name in INLINE}
    works: dict[str, Callable[[], Spent]] = {"stock": partial(prefill.timed, prefill.stock)}
    for name, inline in INLINE.items():
        works[f"{name} inline"] = partial(prefill.timed, partial(inline, prefill))
        works[f"{name} hooked"] = partial(prefill.hooked, name)
    found = interleaved(works, rounds)
    stock = [one.seconds for one in found["stock"]]
    for name in INLINE:
        inline_s, hooked_s = ([one.seconds for one in found[f"{name} {how}"]] for how in ("inline", "hooked"))
        ratio = median(hooked / inline for hooked, inline in zip(hooked_s, inline_s, strict=True))
        raw = {
            "stock_seconds": stock, "inline_seconds": inline_s, "hooked_seconds": hooked_s,
            "inline_compress_seconds": median(inline_s) - median(stock),
            "hooked_compress_seconds": median(one.compressing for one in found[f"{name} hooked"]),
            "visual_tokens": prefill.visual, "kept": prefill.keep, "swapped": swapped[name], "rounds": rounds,
        }  # fmt: skip
        yield Figure(
            "overhead", f"{name}, {prefill.visual:,} visual tokens", "overhead against inline", 100 * (ratio - 1), "%",
            Goal(3), 0.0, "the same scores, top-k and gather, with hooks at no cost", raw,
        )  # fmt: skip


def differing(prefill: Prefill, name: str) -> int:
    """Count the entries that only one of the two ways keeps: ties of the lowest kept score, up to rounding.

    Raises:
        BenchmarkError: the ways differ in more than ties.
    """
    count = 0
    for number, (inline, hooked) in enumerate(zip(INLINE[name](prefill), prefill.kept(name), strict=True)):
        one, other = (_mask(kept, inline.scores, prefill) for kept in (inline.kept, hooked))
        last = inline.scores.masked_fill(~one, torch.inf).amin(dim=-1, keepdim=True)
        far = ((inline.scores - last) / last).abs() > _ROUNDING
        if hooked.shape != inline.kept.shape or bool(((one ^ other) & far).any()):
            raise BenchmarkError(f"{name} keeps other entries of layer {number} through the hooks than inline.")
        count += int((one ^ other).sum()) // 2
    return count


def _mask(kept: Tensor, scores: Tensor, prefill: Prefill) -> Tensor:
    """Return which visual entries are kept, (1, kv_heads, visual)."""
    visual = kept.long() - prefill.first
    visual = visual[(visual >= 0) & (visual < prefill.visual)].view(*scores.shape[:2], prefill.keep)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(2, visual, value=True)
