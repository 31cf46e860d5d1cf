"""The interface of a compression method: one question, which entries matter most."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, MissingInputError
from .entries import Entries, take_slots


class Kept(NamedTuple):
    """What a method leaves of some entries.

    Attributes:
        slots: which of them stay, (batch, kv_heads, keep) int64, ascending.
        merged: what stands in their slots from now on, as many entries, where that is not what stood there: their
            keys, values and places, in memory of their own. Tags stay those of the slots.
    """

    slots: Tensor
    merged: Entries | None = None


@dataclass(frozen=True)
class Compressor:
    """A method. Most answer one question, `scores`; one that merges entries overrides `reduce`.

    A method sees one segment (video or image) of one layer at a time, with all rows that have the same layout. What it
    sees is the cache itself, which the next pass writes to: what it remembers it has to copy.
    Its dataclass fields are its settings.

    Attributes:
        needs: what has to be captured for it: `"queries"` (`entries.context.queries`, the last ones of what was read),
            `"probe"` (the same, of the prompt's last `probe` tokens, which ask after every chunk and are not kept),
            `"vision_attention"` (`entries.importance`), `"rope"` (`entries.context.rope`, to move keys). How it is
            captured the method says by settings of its own: `window` queries, `probe` tokens, `n` standby queries per
            frame or learned `tokens`.
        stages: where it can work: `"cache"` (after each layer's attention), `"input"` (on the visual embeddings,
            before prefill: the entries' keys are then embeddings of one pseudo-head, their values deepstack features).
        source: where the method comes from.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ("cache",)
    source: ClassVar[str] = ""

    def scores(self, entries: Entries) -> Tensor:
        """Score of each entry, (batch, kv_heads, n) fp32; higher stays."""
        raise NotImplementedError(f"{type(self).__name__} defines neither scores() nor select() nor reduce()")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending."""
        return top(self.scores(entries), keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """The `keep` entries (per row and head) that represent `entries`."""
        return Kept(self.select(entries, keep))

    def compress(self, entries: Entries, keep: int) -> Entries:
        """What `reduce` leaves, as entries of their own, in sequence order."""
        slots, merged = self.reduce(entries, keep)
        return entries.gather(slots) if merged is None else replace(merged, tags=take_slots(entries.tags, slots))

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Entries this layer may keep of the `keep` that every layer has on average."""
        return keep

    def banked(self, entries: Entries) -> int:
        """How many leading entries of a layer may leave the device until attention asks for them, where a session has
        a bank.

        Args:
            entries: all that the layer holds once it was compressed, text included; their grid is that of the newest
                segment, None where all is text.
        """
        return len(entries)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "compress" in cls.__dict__:
            raise TypeError(f"{cls.__name__} overrides compress(), which nothing calls: override reduce().")

    @property
    def observer(self) -> Compressor:
        """The method whose settings say how to capture what is needed; a wrapper answers with the wrapped one's."""
        return self

    def describe(self) -> dict[str, object]:
        """The settings, by name, as they go into reports and result rows."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


_SAID = {"queries": ("window",), "probe": ("probe",), "vision_attention": ("n", "tokens")}


def check_observer(method: Compressor) -> None:
    """Raises:
    MissingInputError: the method needs something and does not say how to capture it.
    """
    for need in sorted(method.needs & _SAID.keys()):
        missing = [setting for setting in _SAID[need] if not hasattr(method.observer, setting)]
        if missing:
            raise MissingInputError(
                f"{type(method).__name__} needs {need!r} and has no setting {' and '.join(missing)}, which says how it "
                "is captured: add it."
            )


def top(scores: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores along the last dimension, ascending; of equal scores the earlier stays.

    Nothing is sorted: what is above the lowest score that stays is counted off in order.

    Raises:
        BudgetError: there are fewer scores than `keep`.
    """
    length = scores.shape[-1]
    if keep > length:
        raise BudgetError(f"cannot keep {keep} of {length} entries")
    if not keep:
        return scores.new_empty((*scores.shape[:-1], 0), dtype=torch.long)
    if scores.is_floating_point():
        scores = scores.nan_to_num(torch.inf, torch.inf, -torch.inf)
    lowest = scores.topk(keep, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above, level = scores > lowest, scores == lowest
    room = keep - above.sum(dim=-1, keepdim=True)
    stays = above | (level & (level.cumsum(dim=-1, dtype=torch.int32) <= room))
    turn = (stays.cumsum(dim=-1) - 1).masked_fill_(~stays, keep)
    places = torch.arange(length, device=scores.device).expand_as(turn)
    return turn.new_empty((*turn.shape[:-1], keep + 1)).scatter_(-1, turn, places)[..., :keep].contiguous()
