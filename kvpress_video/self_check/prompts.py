"""Synthetic prompts for any model: random pixels, and random text around their placeholders."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..compressor.entries import Grid, Kind
from ..models.devices import device_of
from ..models.general import General
from ..models.items import features_of
from .pixel_forms import Tower, candidates, named

_FRAMES = 3
_SECONDS = ("second_per_grid_ts", "video_second_per_grid")
_TYPES = {Kind.IMAGE: 1, Kind.VIDEO: 2}
_OPENS = {
    Kind.IMAGE: ("vision_start_token_id", "image_start_token_id", "boi_token_id"),
    Kind.VIDEO: ("vision_start_token_id", "video_start_token_id"),
}
_CLOSES = {
    Kind.IMAGE: ("vision_end_token_id", "image_end_token_id", "eoi_token_id"),
    Kind.VIDEO: ("vision_end_token_id", "video_end_token_id"),
}


class NoPrompt(Exception):
    """No synthetic prompt can be made for a model."""


@dataclass(frozen=True)
class PromptMaker:
    """Makes synthetic prompts with one kind of media.

    Attributes:
        adapter: adapter of the model.
        kind: image or video.
        arguments: arguments of the vision tower for one item.
        grid: visual tokens of one item.
        placeholder: placeholder token id.
        apart: whether text separates the frames of a video.
        most: maximum number of items in a call.
    """

    adapter: General
    kind: Kind
    arguments: Mapping[str, Tensor]
    grid: Grid
    placeholder: int
    apart: bool = False
    most: int = 2

    def prompt(self, items: int | None = None, before: int = 3, after: int = 5, seed: int = 0) -> dict[str, Tensor]:
        """Make the inputs of `generate()` for one row: text, items (by default `most`) separated by text, text."""
        generator, items = seeded(seed), items or self.most
        ids = self.words(before, generator)
        for item in range(items):
            ids += [*(self.words(2, generator) if item else []), *self._spelled(generator)]
        ids += self.words(after, generator)
        model, device = self.adapter.model, device_of(self.adapter.text_model)
        pixels = {name: self.stacked([_noise(value, generator) for _ in range(items)]).to(device)
                  for name, value in self.arguments.items()}  # fmt: skip
        inputs = {"input_ids": torch.tensor([ids], device=device)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = (inputs["input_ids"] == self.placeholder).long()
        taken = inspect.signature(type(model).forward).parameters
        kinds = {"token_type_ids": types, "mm_token_type_ids": types * _TYPES[self.kind]}
        seconds = dict.fromkeys(_SECONDS, torch.ones(items, device=device)) if self.kind is Kind.VIDEO else {}
        return inputs | {name: value for name, value in (kinds | seconds).items() if name in taken} | pixels

    def stacked(self, parts: Sequence[Tensor]) -> Tensor:
        """Combine one argument of several items: along the first dimension, or side by side if they form a strip."""
        strip = "target_sizes" in self.arguments and parts[0].is_floating_point()
        return torch.cat(list(parts), dim=-1 if strip else 0)

    def words(self, count: int, generator: torch.Generator) -> list[int]:
        """Draw random token ids without special meaning."""
        places = torch.randint(len(self._words), (count,), generator=generator)
        return [self._words[place] for place in places.tolist()]

    @cached_property
    def _words(self) -> list[int]:
        special = set(_token_ids(self.adapter.config)) | set(self.adapter.placeholders.values())
        size = self.adapter.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        head = self.adapter.model.get_output_embeddings()  # type: ignore[operator]
        if head is not None:
            size = min(size, head.weight.shape[0])
        return [token for token in range(size // 4, 3 * size // 4) if token not in special][:4096]

    def _spelled(self, generator: torch.Generator) -> Iterator[int]:
        parts = self.grid.frames if self.apart else 1
        config = self.adapter.config
        for part in range(parts):
            if part:
                yield from self.words(2, generator)
            yield from named(config, _OPENS[self.kind])
            yield from [self.placeholder] * (self.grid.tokens // parts)
            yield from named(config, _CLOSES[self.kind])


def seeded(seed: int) -> torch.Generator:
    """Make a generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def prompt_makers(adapter: General, kind: Kind, given: Mapping[str, Any]) -> Iterator[PromptMaker]:
    """Iterate over candidate prompt makers for a kind of media, most likely first.

    Args:
        adapter: adapter of the model.
        kind: image or video.
        given: output of the model's processor for one item, as a template; may be empty.

    Raises:
        NoPrompt: the vision tower accepts no known input format.
    """
    call = getattr(adapter.inner, adapter.encoders[kind])
    reason = ""
    names = inspect.signature(call).parameters
    mine = {name: given[name] for name in names if isinstance(given.get(name), Tensor)}
    settings = _settings(adapter.config, names)
    for arguments in [mine] if mine else candidates(_tower(adapter, kind, names)):
        try:
            with torch.no_grad():
                encoded = call(**arguments, **settings)
            items = adapter.items(kind, arguments, features_of(encoded))
        except Exception as error:
            reason = reason or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if len(items) != 1 or items[0].grid.tokens < 2:
            reason = reason or f"its result is {len(items)} items of {sum(each.grid.tokens for each in items)} tokens"
            continue
        known = adapter.placeholders
        tokens = dict.fromkeys(known[each] for each in (kind, Kind.IMAGE) if each in known)
        for most, token, apart in product((2, 1), tokens, (False, True)[: 1 + (items[0].grid.frames > 1)]):
            yield PromptMaker(adapter, kind, arguments, items[0].grid, token, apart, most)
        return
    shapes = "an image" if kind is Kind.IMAGE else "a video"
    raise NoPrompt(
        f"its vision tower accepts no known input format for {shapes} ({reason or 'no input for pixels':.160})"
    )


def padded_batch(maker: PromptMaker, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Combine prompts of one maker into a left-padded batch."""
    pad = maker.words(1, seeded(9))[0]
    length = max(row["input_ids"].shape[1] for row in rows)
    aligned = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0, "mm_token_type_ids": 0}
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name in aligned:
            fill = aligned[name]
            parts = [torch.nn.functional.pad(part, (length - part.shape[1], 0), value=fill) for part in parts]
        batch[name] = maker.stacked(parts)
    return batch


def _tower(adapter: General, kind: Kind, names: Mapping[str, Any]) -> Tower:
    config, video = adapter.config, kind is Kind.VIDEO
    vision = getattr(config, "vision_config", None) or config
    device, dtype = device_of(adapter.text_model), adapter.text_model.dtype
    return Tower(names, vision, config, device, dtype, _FRAMES if video else 1, video)


def _settings(config: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Read the arguments that the tower requires from the configuration of the tower or the model."""
    required = [name for name, parameter in names.items() if parameter.default is inspect.Parameter.empty]
    parts = (getattr(config, "vision_config", None), config)
    return {name: getattr(part, name) for part in parts for name in required if hasattr(part, name)}


def _noise(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(value.shape, generator=generator).to(value.dtype) if value.is_floating_point() else value


def _token_ids(config: Any) -> Iterator[int]:
    """Iterate over all token ids in a configuration and its sub-configurations."""
    for name, value in config.to_dict().items():
        if name.endswith(("token_id", "token_index", "token_ids")):
            yield from [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)]
    for name in getattr(config, "sub_configs", {}):
        if getattr(config, name, None) is not None:
            yield from _token_ids(getattr(config, name))
