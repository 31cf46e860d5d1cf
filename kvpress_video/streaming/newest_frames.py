"""The newest frames of a stream as inputs of the text model, to re-encode them for a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..cache.layer import CompressedLayer
from ..models.base import Adapter
from ..prefill.reencoding import FrameStates, encode_anew, exchanged
from .frame_tokens import FrameTokens

_PREFIX = "newest."


class NewestFrames:
    """Embeddings of the newest frames.

    Attributes:
        states: inputs of the text model for the frames, None before the first.
        exchanged_bytes: bytes of the keys and values set aside while a question is answered.
    """

    def __init__(self, adapter: Adapter, count: int, spatial: bool) -> None:
        """Create it without frames.

        Args:
            adapter: adapter of the model.
            count: number of frames to hold.
            spatial: whether positions have three axes.
        """
        self._adapter, self._count, self._spatial = adapter, count, spatial
        self.states: FrameStates | None = None
        self.exchanged_bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of the embeddings, and of the keys and values set aside."""
        return (self.states.bytes if self.states else 0) + self.exchanged_bytes

    def note(self, tokens: FrameTokens, embeddings: Tensor, aligned: Tensor | None, index: int, first: int) -> None:
        """Add frames.

        Args:
            tokens: tokens of the frames.
            embeddings: embeddings of the tokens, (n, hidden).
            aligned: deepstack features of the visual tokens, (patches, levels·d).
            index: token index of the first token.
            first: ordinal of the first frame.
        """
        if not self._count:
            return
        visual, of_all = tokens.visual, embeddings[:, :0]
        if aligned is not None:
            of_all = aligned.new_zeros(len(visual), aligned.shape[-1])
            of_all[visual.to(aligned.device)] = aligned
        new = FrameStates(index + torch.arange(len(visual)), first + tokens.frames, visual, embeddings, of_all)
        self.states = (self.states.followed_by(new) if self.states else new).newest(self._count)

    @contextmanager
    def anew(self, layers: Sequence[CompressedLayer]) -> Iterator[None]:
        """Hold states of the frames re-encoded with only text in context, if frames were evicted."""
        row = layers[0].rows[0]
        whole = all(layer.rows[0].held == row.seen for layer in layers)
        if self.states is None or whole:
            yield
            return
        forward = self._adapter.text_model
        made = encode_anew(forward, self._adapter, layers, 0, self.states, self._arguments, self._spatial)
        if made is None:
            yield
            return
        self.exchanged_bytes = made.bytes
        try:
            with exchanged(layers, made):
                yield
        finally:
            self.exchanged_bytes = 0

    def _arguments(self, states: FrameStates) -> Mapping[str, Any]:
        if not states.aligned.shape[-1]:
            return {}
        visual = states.visual.to(states.aligned.device)
        return self._adapter.aligned_inputs(states.aligned[visual], visual[None])

    def tensors(self) -> dict[str, Tensor]:
        """Copy the tensors, by name."""
        if self.states is None:
            return {}
        return {f"{_PREFIX}{field.name}": getattr(self.states, field.name).clone() for field in fields(FrameStates)}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Continue from the tensors of another stream."""
        names = [field.name for field in fields(FrameStates)]
        if self._count and f"{_PREFIX}index" in tensors:
            index, frames, visual, *features = (tensors[f"{_PREFIX}{name}"] for name in names)
            moved = (part.to(device) for part in features)
            self.states = FrameStates(index.cpu(), frames.cpu(), visual.cpu(), *moved).newest(self._count)


def holds_frames(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors of a snapshot include embeddings of frames."""
    return any(name.startswith(_PREFIX) for name in tensors)
