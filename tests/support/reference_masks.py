"""What happens to the cache layers, noted from outside, and the stock model masked by hand to match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from generation import answer, forced
from torch import Tensor

from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.cache.uneven_layer import UnevenLayer
from kvpress_video.compressor.entries import Tags
from kvpress_video.models import adapter_for
from kvpress_video.models.cache_argument import CACHE


class Log:
    """Every change of the cache layers.

    Attributes:
        peak: most bytes that all layers held together.
        longest: most entries that each layer held.
        kept: per layer, (batch, kv_heads, entries) indices after each compression.
        came: per layer, keys, values and the indices of each pass.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.longest: dict[int, int] = {}
        self.kept: dict[int, list[Tensor]] = {}
        self.came: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._layers: list[CompressedLayer] = []

    def number(self, layer: CompressedLayer) -> int:
        known = [id(other) for other in self._layers]
        if id(layer) not in known:
            self._layers.append(layer)  # layers are first met in their order
        return [id(other) for other in self._layers].index(id(layer))

    def measure(self, layer: CompressedLayer) -> None:
        number = self.number(layer)
        self.longest[number] = max(self.longest.get(number, 0), layer.keys.shape[2])
        held = [[other.keys, other.values, other.tags, other.places] for other in self._layers]
        self.peak = max(self.peak, sum(part.numel() * part.element_size() for parts in held for part in parts))


@contextmanager
def noted(patch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Notes what one `generate()` does to its cache."""
    log = Log()
    update = CompressedLayer.update

    def noted_update(layer: CompressedLayer, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = update(layer, keys, values, *args, **kwargs)
        log.measure(layer)
        index = layer.tags[:, 0, -keys.shape[2] :, Tags.INDEX].clone()
        log.came.setdefault(log.number(layer), []).append((keys.clone(), values.clone(), index))
        return made

    def noted_keep(keep: Any) -> Any:
        def noted(layer: CompressedLayer, *args: Any) -> None:
            keep(layer, *args)
            log.measure(layer)
            log.kept.setdefault(log.number(layer), []).append(layer.kept)

        return noted

    with patch.context() as inside:
        inside.setattr(CompressedLayer, "update", noted_update)
        inside.setattr(CompressedLayer, "keep", noted_keep(CompressedLayer.keep))
        inside.setattr(UnevenLayer, "evict", noted_keep(UnevenLayer.evict))
        yield log


@dataclass(frozen=True)
class View:
    """Mask of the keys visible to each query of a prompt, per layer: (kv_heads, queries, keys) bool."""

    layers: list[Tensor]


def view_of(log: Log, length: int, columns: Sequence[Tensor]) -> View:
    """From what came in each pass and what was kept after it."""
    layers = []
    for kept in log.kept.values():
        heads = kept[0].shape[1]
        visible = torch.zeros(heads, length, length, dtype=torch.bool)
        held = [torch.zeros(length, dtype=torch.bool) for _ in range(heads)]
        for number, came in enumerate(columns):
            for head in range(heads):
                now = held[head].clone()
                now[came] = True
                causal = torch.arange(length)[None] <= came[:, None]
                visible[head, came] = now & causal
                held[head] = now
                if number < len(kept):
                    held[head] = torch.zeros(length, dtype=torch.bool)
                    held[head][kept[number][0, head].long()] = True
        layers.append(visible)
    return View(layers)


@torch.no_grad()
def masked_answer(
    model: Any, inputs: dict[str, Tensor], tokens: Tensor, view: View, positions: Tensor | None = None
) -> Tensor:
    """Logits of the stock model fed `tokens`, its attention masked by hand; new tokens see what the last one saw."""
    groups = model.config.get_text_config().num_attention_heads // len(view.layers[0])
    length, lowest = inputs["input_ids"].shape[1], torch.finfo(torch.float32).min

    def mask(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = kwargs["attention_mask"]
        visible = view.layers[list(attentions).index(module.layer_idx)].repeat_interleave(groups, dim=0)
        queries, keys = given.shape[-2:]
        wide = torch.ones(len(visible), queries, keys, dtype=torch.bool)
        wide[..., :length] = visible if queries == length else visible[:, -1:]
        kwargs["attention_mask"] = torch.zeros(1, *wide.shape).masked_fill(~wide, lowest)
        return args, kwargs

    def moved(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if positions is not None:
            start = kwargs[CACHE].get_seq_length()
            kwargs["position_ids"] = positions[..., start : start + kwargs["inputs_embeds"].shape[1]]
        return args, kwargs

    decoder, attentions = model.get_decoder(), zoo.attentions(model)
    handles = [module.register_forward_pre_hook(mask, with_kwargs=True) for module in attentions.values()]
    handles.append(decoder.register_forward_pre_hook(moved, with_kwargs=True))

    try:
        return answer(model, inputs, new=tokens.shape[1], logits_processor=[forced(tokens, length)]).logits
    finally:
        for handle in handles:
            handle.remove()


def evicted(kept: Tensor, length: int) -> Tensor:
    """(kv_heads, entries) indices -> (kv_heads, length) True where nothing was kept."""
    hidden = torch.ones(kept.shape[0], length, dtype=torch.bool)
    for head, indices in enumerate(kept):
        hidden[head, indices[indices >= 0].long()] = False
    return hidden


@torch.no_grad()
def blinded_answer(
    model: Any,
    inputs: dict[str, Tensor],
    hidden: list[Tensor],
    tokens: Tensor,
    blind_from: int,
    apart: Tensor | None = None,
) -> Tensor:
    """Logits of the stock model fed `tokens`; from column `blind_from` on, every query of every head is blind to the
    entries that are hidden in its layer, and queries of the prompt to the keys `apart` from them, (length, length)."""
    groups = model.config.get_text_config().num_attention_heads // hidden[0].shape[0]
    lowest = torch.finfo(torch.float32).min

    def mask(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        given = kwargs["attention_mask"]
        past = given.shape[-1] - given.shape[-2]
        blind = hidden[list(attentions).index(module.layer_idx)].repeat_interleave(groups, dim=0)
        added = given.expand(1, len(blind), -1, -1).clone()
        first = max(blind_from - past, 0)
        added[:, :, first:, : blind.shape[-1]].masked_fill_(blind[None, :, None], lowest)
        if apart is not None and not past:
            added.masked_fill_(apart, lowest)
        kwargs["attention_mask"] = added
        return args, kwargs

    attentions = zoo.attentions(model)
    handles = [module.register_forward_pre_hook(mask, with_kwargs=True) for module in attentions.values()]

    try:
        return answer(
            model, inputs, new=tokens.shape[1], logits_processor=[forced(tokens, inputs["input_ids"].shape[1])]
        ).logits
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def skipping_answer(
    model: Any, inputs: dict[str, Tensor], kept: Sequence[Tensor], tokens: Tensor, evicts: int | None = None
) -> Tensor:
    """Logits of the stock model fed `tokens`, in which each layer returns the states of the tokens that it does not
    keep as they came, and hides those tokens from all others.

    Args:
        kept: per layer with full attention, (kv_heads, n) indices, the same in all heads.
        evicts: a layer that all tokens run through and see, and that hides those that it does not keep afterwards.
    """
    length, lowest = inputs["input_ids"].shape[1], torch.finfo(torch.float32).min
    came: dict[int, Tensor] = {}
    handles = []

    def watch(number: int, index: Tensor, attention: Any) -> None:
        skips = torch.ones(length, dtype=torch.bool)
        skips[index.long()] = False

        def hide(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            mask = kwargs["attention_mask"].clone()
            if number == evicts and mask.shape[-2] == length:
                return args, kwargs
            mask[..., :length].masked_fill_(skips, lowest)
            return args, kwargs | {"attention_mask": mask}

        def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            came[number] = args[0] if args else kwargs["hidden_states"]

        def give_back(module: Any, args: tuple, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            if states.shape[1] == length and number != evicts:
                states = torch.where(skips[:, None], came[number], states)
            return (states, *output[1:]) if isinstance(output, tuple) else states

        layer = model.get_decoder().layers[attention.layer_idx]
        handles.append(attention.register_forward_pre_hook(hide, with_kwargs=True))
        handles.append(layer.register_forward_pre_hook(note, with_kwargs=True))
        handles.append(layer.register_forward_hook(give_back))

    for number, (index, attention) in enumerate(zip(kept, adapter_for(model).attentions, strict=True)):
        watch(number, index[0], attention)
    try:
        return answer(model, inputs, new=tokens.shape[1], logits_processor=[forced(tokens, length)]).logits
    finally:
        for handle in handles:
            handle.remove()
