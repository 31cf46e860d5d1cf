"""The interface of a compression method: one question, which entries matter most."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor

from .entries import Entries
from .errors import BudgetError, MissingInputError


@dataclass(frozen=True)
class Compressor:
    """A method. Most answer one question, `scores`; one that merges entries overrides `compress`.

    A method sees one segment (video or image) of one layer at a time, with all rows that have the same layout.
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
        raise NotImplementedError(f"{type(self).__name__} defines neither scores() nor compress()")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending."""
        return top(self.scores(entries), keep)

    def compress(self, entries: Entries, keep: int) -> Entries:
        """The `keep` entries (per row and head) that represent `entries`, in sequence order."""
        return entries.gather(self.select(entries, keep))

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

    Raises:
        BudgetError: there are fewer scores than `keep`.
    """
    if keep > scores.shape[-1]:
        raise BudgetError(f"cannot keep {keep} of {scores.shape[-1]} entries")
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :keep].sort(dim=-1).values
