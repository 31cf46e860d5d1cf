"""Share one prefill of a prompt among several compressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..cache.uncompressed import copies, put_copies
from ..compressor.entries import Tags

_TAIL = 64  # newest hidden states kept of every layer, for methods that read the last queries


@dataclass(frozen=True)
class RecordedLayer:
    """Keys, values and hidden states of one layer before it was compressed.

    Attributes:
        attention: its attention module.
        keys, values: (batch, kv_heads, n, head_dim), rotated.
        states: the newest hidden states passed to the attention, (batch, ≤ n, hidden).
    """

    attention: nn.Module
    keys: Tensor
    values: Tensor
    states: Tensor


@dataclass
class RecordedPrefill:
    """One pass of the text model over a prompt up to its last visual token.

    Attributes:
        given: tensors among the text model's arguments, by name.
        content: kinds, segments, frames and patches of its tokens, (batch, n, Tags.WIDTH - 1).
        attention: the attention implementation.
        layers: record of each layer.
        others: states of the uncompressed cache layers afterwards, by their index.
        hidden: output, (batch, n, hidden).
    """

    given: dict[str, Tensor]
    content: Tensor
    attention: str
    layers: list[RecordedLayer] = field(default_factory=list)
    others: dict[int, Any] = field(default_factory=dict)
    hidden: Tensor | None = None

    def note(self, attention: nn.Module, layer: CompressedLayer, states: Tensor, window: int) -> None:
        """Record a layer directly after its attention."""
        tail = states[:, -max(window, _TAIL) :].clone()
        self.layers.append(RecordedLayer(attention, layer.keys.clone(), layer.values.clone(), tail))

    def finish(self, cache: Cache, hidden: Tensor) -> None:
        """Record the output and the uncompressed layers."""
        self.others, self.hidden = copies(cache, len(hidden)), hidden

    def put_others(self, cache: Cache) -> None:
        """Copy the recorded layers that are not compressed into an empty cache."""
        put_copies(cache, self.others, self.content.shape[0])

    def same(self, other: RecordedPrefill) -> bool:
        """Whether the other pass has the same input."""
        return (
            self.attention == other.attention
            and self.given.keys() == other.given.keys()
            and _equal(self.content, other.content)
            and all(_equal(mine, other.given[name]) for name, mine in self.given.items())
        )

    def serves(self, window: int) -> bool:
        """Whether it contains the last `window` queries."""
        length = self.content.shape[1]
        return self.hidden is not None and self.layers[0].states.shape[1] >= min(window, length)


class SharedPrefill:
    """Features and one uncompressed prefill of a video, shared by compressions of the same prompt with other methods or
    budgets.

        once = kv.SharedPrefill()
        for method in ("tar", "van", "infinipot-v"):
            with kv.compress(model, method, "25%", shared=once) as run:
                out = model.generate(**inputs)

    A method sees bit-identical entries as without sharing; with a budget that keeps everything, logits equal those of
    the stock model up to rounding. Only one-shot compressions (`prefill="split"`, the default for ratios) reuse the
    cache; others reuse only the output of the vision tower.

    It holds the pixels, features and full cache of each prompt on the model's device: call `clear()` before the next
    video, and whenever the model's weights, adapters or autocast change. Use it from one thread at a time.

    Attributes:
        reused: number of prefills saved.
    """

    def __init__(self) -> None:
        self.reused = 0
        self._model: nn.Module | None = None
        self._passes: list[RecordedPrefill] = []
        self._encoded: list[tuple[dict[str, Tensor], Any, Any]] = []

    def clear(self) -> None:
        """Drop all recorded prefills and features."""
        self._passes.clear()
        self._encoded.clear()

    def belongs_to(self, model: nn.Module) -> None:
        """Record this model from now on, and drop the prefills of any other."""
        if self._model is not model:
            self.clear()
            self._model = model

    def find(self, wanted: RecordedPrefill, window: int) -> RecordedPrefill | None:
        """Return an equal pass that contains the last `window` queries; None if there is none."""
        found = next((known for known in self._passes if known.serves(window) and known.same(wanted)), None)
        self.reused += found is not None
        return found

    def add(self, finished: RecordedPrefill) -> None:
        """Add a pass, in place of an equal one with fewer queries."""
        self._passes = [known for known in self._passes if not known.same(finished)] + [finished]

    def encoded(self, arguments: Mapping[str, Any], settings: Any) -> Any:
        """Return the features of equal arguments and settings; None if there are none."""
        given, settings = tensors(arguments), (settings, _plain(arguments))
        for known, how, made in self._encoded:
            alike = how == settings and known.keys() == given.keys()
            if alike and all(_equal(known[name], part) for name, part in given.items()):
                return made
        return None

    def keep_encoded(self, arguments: Mapping[str, Any], settings: Any, made: Any) -> None:
        """Store features of the vision tower."""
        given = {name: self._copied(name, part) for name, part in tensors(arguments).items()}
        self._encoded.append((given, (settings, _plain(arguments)), made))

    def _copied(self, name: str, part: Tensor) -> Tensor:
        """Copy an argument, which its caller may modify; once for all settings under which a clip is encoded."""
        held = (known[name] for known, *_ in self._encoded if name in known)
        equal = next((one for one in held if _equal(one, part)), None)
        return part.clone() if equal is None else equal


def wanted_pass(arguments: Mapping[str, Any], chunk: ForwardPass, attention: str) -> RecordedPrefill:
    """Return the pass of a call of the text model with these arguments."""
    return RecordedPrefill(tensors(arguments), chunk.tags[..., Tags.KIND :], attention)


def tensors(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors among some arguments by name, including those in lists and tuples."""
    found: dict[str, Tensor] = {}
    for name, value in arguments.items():
        parts = enumerate(value) if isinstance(value, list | tuple) else [("", value)]
        found |= {f"{name}{place}": part for place, part in parts if isinstance(part, Tensor)}
    return found


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments without tensors."""
    return {name: value for name, value in arguments.items() if not tensors({name: value})}


def _equal(one: Tensor, other: Tensor) -> bool:
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    return alike and bool(torch.equal(one, other))
