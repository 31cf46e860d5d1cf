"""An archive of all frames on the host, from which some are retrieved for a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..compressor.entries import Entries, Places, Tags, is_visual
from ..compressor.rope import Rope
from .offload import DiskStorage, HostStorage, OffloadStorage


class ArchivedFrame(NamedTuple):
    """A frame: its segment, its index there, and the range of its tokens in the archive."""

    segment: int
    frame: int
    start: int
    stop: int


class FrameArchive:
    """All visual tokens of one sequence before compression, with un-rotated keys, and the mean keys of each frame.

    Attributes:
        frames: archived frames, in order of arrival.
    """

    def __init__(self, layers: int, bank_on: str, rope: Rope) -> None:
        """Make an empty archive.

        Args:
            layers: number of compressed layers.
            bank_on: `"disk"` for temporary files, otherwise host memory.
            rope: rotation of the keys.
        """
        self._stores: list[OffloadStorage] = [
            DiskStorage() if bank_on == "disk" else HostStorage() for _ in range(layers)
        ]
        self._means: list[list[Tensor]] = [[] for _ in range(layers)]
        self._tags: list[Tensor] = []
        self._places: list[Tensor] = []
        self._rope = rope
        self.frames: list[ArchivedFrame] = []

    @property
    def bytes(self) -> int:
        """Bytes on the host: keys, values, metadata and mean keys."""
        parts = [*self._tags, *self._places, *(mean for means in self._means for mean in means)]
        return sum(store.held_bytes for store in self._stores) + sum(part.nbytes for part in parts)

    def note(self, layer: int, entries: Entries, moves: bool = False) -> None:
        """Copy the visual tokens of a pass of whole frames.

        Args:
            layer: index of the compressed layer.
            entries: entries of the pass in that layer, one row.
            moves: whether keys still have to move to their target position.
        """
        visual = is_visual(entries.kind[0, 0])
        keys, values, tags, places = (part[:, :, visual] for part in (entries.keys, entries.values, entries.tags,
                                                                      entries.places))  # fmt: skip
        if not len(tags[0, 0]):
            return
        plain = self._rope.rotate(keys.float(), -entries.present[:, :1, visual])
        self._stores[layer].append([plain.to(keys.dtype), values])
        if not layer:
            self._describe(tags[0, 0].cpu(), _settled(places[0, 0], moves).cpu())
        start = self.frames[0].start if not self._means[layer] else self.frames[len(self._means[layer]) - 1].stop
        for _, _, first, stop in self.frames[len(self._means[layer]) :]:
            self._means[layer].append(plain[0, :, first - start : stop - start].mean(dim=1).cpu())

    def _describe(self, tags: Tensor, places: Tensor) -> None:
        self._tags.append(tags)
        self._places.append(places)
        start = self.frames[-1].stop if self.frames else 0
        which, counts = tags[:, [Tags.SEGMENT, Tags.FRAME]].unique_consecutive(dim=0, return_counts=True)
        for (segment, frame), count in zip(which.tolist(), counts.tolist(), strict=True):
            self.frames.append(ArchivedFrame(segment, frame, start, start + count))
            start += count

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Move the compact positions of all tokens; `change` maps (n, 3) to (n, 3)."""
        self._places = [_moved(places, change) for places in self._places]

    def of(self, segment: int) -> list[int]:
        """Return the indices of a segment's frames."""
        return [number for number, each in enumerate(self.frames) if each.segment == segment]

    def means(self, layer: int, numbers: Sequence[int]) -> Tensor:
        """Return the mean un-rotated keys of some frames, (frames, kv_heads, head_dim) fp32 on the host."""
        return torch.stack([self._means[layer][number] for number in numbers])

    def entries(self, layer: int, numbers: Sequence[int], like: Entries) -> Entries:
        """Return the entries of some frames in one layer, rotated to their current positions.

        Args:
            layer: index of the compressed layer.
            numbers: indices of the frames, ascending.
            like: entries whose device, dtypes and heads the result has.
        """
        tokens = torch.cat([torch.arange(*self.frames[number][2:]) for number in numbers])
        keys, values = (part[:, :, tokens].to(like.keys.device) for part in self._stores[layer].held)
        tags, places = (torch.cat(parts)[tokens].to(like.keys.device) for parts in (self._tags, self._places))
        wide = (1, keys.shape[1], -1, -1)
        whole = Entries(keys, values.to(like.values), tags.expand(wide), places.expand(wide))
        rotated = self._rope.rotate(keys.float(), whole.present).to(like.keys.dtype)
        return replace(whole, keys=rotated, context=like.context)


def _settled(places: Tensor, moves: bool) -> Tensor:
    if not moves:
        return places
    target = places[..., Places.TARGET]
    return torch.cat([places[..., : Places.WIDTH], target, target], dim=-1)


def _moved(places: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    target = change(places[:, Places.PRESENT]).to(places)
    return torch.cat([places[:, : Places.WIDTH], target, target], dim=-1)
