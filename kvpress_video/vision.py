"""Watches a model encode videos and images, and remembers their grids and, if asked, the importance of each token."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .entries import Kind
from .layout import Item
from .models.base import Adapter, StandbySettings

_CALLS = {Kind.IMAGE: "get_image_features", Kind.VIDEO: "get_video_features"}


class VisionWatch:
    """Between `attach` and `remove`, `items` holds what was encoded since they were last taken.

    Attributes:
        items: videos and images in the order of their placeholders, per kind.
    """

    def __init__(self, adapter: Adapter, standby: StandbySettings | None) -> None:
        self.items: dict[Kind, list[Item]] = {}
        self._adapter = adapter
        self._standby = standby
        self._importance: list[Tensor] = []
        self._depth = 0
        self._handles: list[RemovableHandle] = []
        self._own: dict[str, Any] = {}

    @property
    def attentive(self) -> bool:
        """Whether importance is asked for."""
        return self._standby is not None

    def take_items(self) -> dict[Kind, list[Item]]:
        """What was encoded for the prompt in flight; it is forgotten here, so that the next prompt cannot use it."""
        taken, self.items = self.items, {}
        return taken

    def attach(self) -> None:
        """Start watching."""
        if self._standby is not None:
            self._handles = self._adapter.watch_vision(self._standby, self._importance.append)
        inner = self._adapter.inner
        for kind, name in _CALLS.items():
            if hasattr(inner, name):
                self._own[name] = inner.__dict__.get(name)
                setattr(inner, name, self._watched(kind, getattr(inner, name)))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        for name, own in self._own.items():
            delattr(self._adapter.inner, name)
            if own is not None:
                setattr(self._adapter.inner, name, own)
        self._own.clear()
        self.items.clear()

    def _watched(self, kind: Kind, encode: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(encode)

        @functools.wraps(encode)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return encode(*args, **kwargs)
            self._importance.clear()
            self._depth += 1
            try:
                encoded = encode(*args, **kwargs)
            finally:
                self._depth -= 1
            features = getattr(encoded, "pooler_output", encoded)
            items = self._adapter.items(kind, signature.bind(*args, **kwargs).arguments, features)
            self.items[kind] = self._with_importance(items)
            return encoded

        return call

    def _with_importance(self, items: Sequence[Item]) -> list[Item]:
        sizes = [item.grid.tokens for item in items]
        found = torch.cat(self._importance) if self._importance else torch.empty(0)
        if len(found) != sum(sizes):
            return list(items)
        return [replace(item, importance=part) for item, part in zip(items, found.split(sizes), strict=True)]
