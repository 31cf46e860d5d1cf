"""An archive of all frames of a stream on the host, from which a method retrieves some for a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from ..cache.archive import FrameArchive
from ..cache.recall import recalled
from ..compressor.base import Compressor
from ..compressor.entries import Entries
from ..compressor.rope import Rope
from ..models.base import Adapter
from ..prefill.question_reading import QuestionReading, margin_of

if TYPE_CHECKING:
    from .stream import Stream


class StreamArchive:
    """The archive of one stream; empty unless the method needs one.

    Attributes:
        recalls: number of questions for which frames were retrieved.
        margin: margin of the newest question, if the method uses it.
    """

    def __init__(self, adapter: Adapter, method: Compressor, bank_on: str, rope: Rope) -> None:
        """Make an empty archive.

        Args:
            adapter: adapter of the model.
            method: selects the frames to retrieve.
            bank_on: `"disk"` to archive in temporary files.
            rope: rotation of the keys.
        """
        self._adapter, self._method = adapter, method
        self._frames = FrameArchive(len(adapter.attentions), bank_on, rope)
        self.recalls = 0
        self.margin: float | None = None

    @property
    def bytes(self) -> int:
        """Bytes on the host."""
        return self._frames.bytes

    def note(self, layer: int, entries: Entries, moves: bool) -> None:
        """Archive the frames of a pass, see `FrameArchive.note`."""
        self._frames.note(layer, entries, moves)

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Move the positions of all frames."""
        self._frames.move(change)

    @contextmanager
    def recalled(self, stream: Stream, ids: Sequence[int]) -> Iterator[None]:
        """Context manager that holds the frames retrieved for a question, if entries were evicted."""
        layers, method = stream.layers, self._method
        row = layers[0].rows[0]
        if not self._frames.frames or all(layer.rows[0].held == row.seen for layer in layers):
            yield
            return
        reading, mark = QuestionReading(self._adapter), stream.mark()
        with stream.attached(), reading.watching():
            states = stream.feed_text(ids)
        stream.rewind(mark)
        least = method.recall_margin(self._adapter.calibration)
        self.margin = None if least is None else margin_of(self._adapter, states[-1])
        if least is not None and self.margin is not None and self.margin >= least:
            yield
            return
        self.recalls += 1
        with recalled(layers, 0, self._frames, method, reading.queries(0)):
            yield
