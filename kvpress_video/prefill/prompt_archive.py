"""An archive of all frames of a prompt on the host, from which a method retrieves some for the text after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..cache.archive import FrameArchive
from ..cache.layer import CompressedLayer
from ..cache.recall import bring_back
from ..compressor.base import Compressor
from ..compressor.entries import Entries
from ..errors import MissingInputError
from ..models.base import Adapter
from .chunking import Chunks
from .question_reading import QuestionReading, margin_of


class PromptArchive:
    """The archive of one prompt, row by row."""

    def __init__(self, adapter: Adapter, method: Compressor, rows: int, chunks: Chunks | None) -> None:
        """Make an empty archive.

        Args:
            adapter: adapter of the model.
            method: selects the frames to retrieve.
            rows: rows of the batch.
            chunks: chunks of the prompt; None if it is read in one pass.

        Raises:
            MissingInputError: no text is read after the last frame.
        """
        if chunks is None or chunks.rest is None:
            raise MissingInputError(
                f"{type(method).__name__} retrieves frames for the text after them: put text after the last frame, "
                "and leave prefill='whole' out."
            )
        self._adapter, self._method = adapter, method
        rope, count = adapter.rope(), len(adapter.attentions)
        self._frames = [FrameArchive(count, "cpu", rope) for _ in range(rows)]

    def note(self, layer: int, entries: Entries, moves: bool) -> None:
        """Archive the frames of a pass, see `FrameArchive.note`."""
        for row, frames in enumerate(self._frames):
            frames.note(layer, entries.rows([row]), moves)

    def bring_back(self, layers: Sequence[CompressedLayer], real: Tensor, read: Callable[[], Any]) -> None:
        """Read the text after the last frame once, drop it, and hold the frames that it retrieves.

        Args:
            layers: compressed layers of the cache.
            real: which of its columns are tokens, (batch, n) bool.
            read: runs the text model on it, and returns the output.
        """
        reading, marks = QuestionReading(self._adapter), [layer.mark() for layer in layers]
        with reading.watching():
            output = read()
        for layer, mark in zip(layers, marks, strict=True):
            layer.rewind(mark)
        least = self._method.recall_margin(self._adapter.calibration)
        for row, frames in enumerate(self._frames):
            if least is None or margin_of(self._adapter, output.last_hidden_state[row, -1]) < least:
                bring_back(layers, row, frames, self._method, reading.queries(row, real[row]))
