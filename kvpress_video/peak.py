"""How much the cache layers held at their fullest."""

from __future__ import annotations

from collections.abc import Sequence

from .cache import CompressedLayer


class Peak:
    """The most bytes that the layers held at one moment, as they are filled and compressed one after another.

    Attributes:
        bytes: of keys, values and metadata, all layers together.
    """

    def __init__(self, layers: Sequence[CompressedLayer] = ()) -> None:
        self._held = {layer: layer.bytes for layer in layers}
        self.bytes = sum(self._held.values())

    def note(self, layer: CompressedLayer) -> None:
        """Count a layer that changed."""
        self._held[layer] = layer.bytes
        self.bytes = max(self.bytes, sum(self._held.values()))
