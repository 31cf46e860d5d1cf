"""Entries of one head as plain numpy arrays, for formulas written out in loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kvpress_video.compressor.entries import Entries
from kvpress_video.contract.random_entries import ROPE


class PlainHead:
    """One head's entries, in fp64; `shown` are its un-rotated keys."""

    def __init__(self, entries: Entries, row: int, head: int) -> None:
        self.grid = entries.grid
        self.frame = entries.frame[row, head].tolist()
        self.patch = entries.patch[row, head].tolist()
        self.keys = entries.keys[row, head].double().numpy()
        self.values = entries.values[row, head].double().numpy()
        self.places = entries.places[row, head].double().numpy()
        self.n = len(self.frame)
        turned = [turn(key, place[:3], -1) for key, place in zip(self.keys, self.places, strict=True)]
        self.shown = self.keys if entries.context.rope is None else np.array(turned)
        self.units = self.shown / np.linalg.norm(self.shown, axis=1, keepdims=True)

    @property
    def frames(self) -> dict[int, list[int]]:
        """Cached entries by frame."""
        found: dict[int, list[int]] = {}
        for i, frame in enumerate(self.frame):
            found.setdefault(frame, []).append(i)
        return found


def turn(key: NDArray, position: NDArray, sign: int) -> NDArray:
    """Rotate a key to a position (sign 1) or back from it (-1), pair by pair."""
    half = len(ROPE.frequencies)
    out = key.copy()
    for i, (frequency, axis) in enumerate(zip(ROPE.frequencies.tolist(), ROPE.axes.tolist(), strict=True)):
        pair = complex(key[i], key[i + half]) * np.exp(1j * sign * position[axis] * frequency)
        out[i], out[i + half] = pair.real, pair.imag
    return out


def heads(entries: Entries) -> Iterator[tuple[int, int, PlainHead]]:
    """Iterate over rows and heads."""
    for row in range(entries.keys.shape[0]):
        for head in range(entries.keys.shape[1]):
            yield row, head, PlainHead(entries, row, head)


def expected(entries: Entries, rule: Callable[[PlainHead], list[int]]) -> list[list[list[int]]]:
    """Selection of a rule in every head, as `select()` would return it."""
    rows = range(entries.keys.shape[0])
    return [[rule(PlainHead(entries, row, head)) for head in range(entries.keys.shape[1])] for row in rows]


def best(scores: list[float], keep: int) -> list[int]:
    """The highest scores, of equal ones the earlier."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:keep])
