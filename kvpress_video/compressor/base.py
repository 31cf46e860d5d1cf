"""The interface of a compression method: everything that it may override; most of it is documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..errors import KVPressVideoError, MethodError
from ..utils.numbers import is_whole
from .entries import Entries, take_slots
from .ranking import top
from .results import Kept, MethodCall, check_scores

if TYPE_CHECKING:
    from .routing import Routing

STAGES = ("cache", "input")
FIDELITIES = {
    "exact": "selects as the source does, by its formula or its released code",
    "mechanism": "follows the source's rule, with parts omitted or replaced",
    "analogy": "implements the source's idea by other means, such as without its training",
    "ours": "a method of this project",
}
"""How faithful a method may be to its source."""
NEEDS: dict[str, tuple[str, ...]] = {
    "queries": ("window",),
    "probe": ("probe",),
    "vision_attention": ("n", "tokens"),
    "rope": (),
    "output_weight": (),
    "attention": (),
    "deeper": (),
    "reconstruction": ("probe",),
    "router": (),
}
"""Inputs that can be captured for a method, with the settings of the method that configure the capture."""


@dataclass(frozen=True)
class Compressor:
    """Base class of compression methods, which select the visual entries to keep in a cache.

    Most methods implement `scores()`. A method that selects by another rule overrides `select()`; a method that merges
    entries overrides `reduce()`. A method receives one segment (video or image) of one layer at a time, in all rows of
    the batch with the same layout. The entries are views of the cache, which later passes overwrite: clone a tensor
    before keeping it, and never write to one. Decorate a method with `@dataclass(frozen=True)`; its fields are its
    settings.

    Attributes:
        needs: inputs to capture, from `NEEDS`: `"queries"`, the last `window` queries of a pass
            (`entries.context.queries`); `"probe"`, the queries of the prompt's last `probe` tokens, which run after
            every chunk and are not kept (also `entries.context.queries`); `"reconstruction"`, along with `"probe"`, the
            queries of the chunk's own frames too, which run once more after the probe; `"vision_attention"`, the
            importance that `n` standby queries per frame, or the learned `tokens`, assign (`entries.importance`);
            `"rope"`, the rotation of the keys (`entries.context.rope`); `"output_weight"`, the layer's output
            projection (`entries.context.output_weight`); `"attention"`, the attention module and its arguments
            (`entries.context.attention`); `"deeper"`, the `scores()` of the next deeper layer
            (`entries.context.deeper`), for which every layer holds the whole pass until the deepest one has run;
            `"router"`, the routing of a mixture of experts, before prefill (`entries.context.router`). `window`,
            `probe`, `n` and `tokens` are settings of the method.
        stages: where the method works: `"cache"`, after the attention of each layer; `"input"`, on the visual
            embeddings before prefill, where the keys are embeddings of one pseudo-head and the values deepstack
            features.
        keeps_all: whether the method keeps every entry, so that no budget applies.
        uneven: whether the KV heads of a layer may keep different numbers of entries; the method then implements
            `select_uneven()`.
        presets: named sets of settings, used as `"method:name"`.
        source: publication or origin of the method.
        year: year of the source, None if it has none.
        family: family of the idea, one word such as `"attention"` or `"redundancy"`; not checked.
        fidelity: fidelity to the source, from `FIDELITIES`; empty for no claim.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ("cache",)
    keeps_all: ClassVar[bool] = False
    uneven: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    source: ClassVar[str] = ""
    year: ClassVar[int | None] = None
    family: ClassVar[str] = ""
    fidelity: ClassVar[str] = ""

    def scores(self, entries: Entries) -> Tensor:
        """Score each entry, (batch, kv_heads, n) floating point, preferably fp32; the highest are kept."""
        raise NotImplementedError(f"{type(self).__name__} implements neither scores() nor select() nor reduce()")

    def checked_scores(self, entries: Entries) -> Tensor:
        """Score each entry and validate the scores; off the CPU, NaN becomes -inf.

        Raises:
            MethodError: scores of the wrong shape, dtype or device, or (on the CPU) NaN.
        """
        return check_scores(self.scores(entries), entries)

    def ranking(self, entries: Entries, keep: int) -> Tensor:
        """Rank the entries for a selection of `keep`, (batch, kv_heads, n); by default their scores, whatever `keep`.

        A method whose selection is the top of a ranking that depends on the budget overrides this instead of `select`.
        """
        return self.checked_scores(entries)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the slots to keep, (batch, kv_heads, keep) int64, ascending."""
        return top(self.ranking(entries, keep), keep)

    def select_uneven(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries to keep in all heads of a row together, for `uneven` methods.

        Args:
            entries: those of one segment, with padding in front of heads that hold fewer, see `Entries.by_head`.
            keep: entries to keep per head, on average.

        Returns:
            Mask of the kept entries, (batch, kv_heads, n) bool, `keep * kv_heads` in each row, none of them padding.
        """
        raise NotImplementedError(f"{type(self).__name__} is uneven and does not implement select_uneven()")

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Reduce the entries to `keep` per row and head."""
        return Kept(self.select(entries, keep))

    def compress(self, entries: Entries, keep: int) -> Entries:
        """Run `reduce()` and return the result as new entries, in sequence order; of a method that is `uneven`, with
        padding in front of heads that keep fewer than others.

        Raises:
            MethodError: the method failed or returned an unusable result.
            BudgetError: the method cannot keep exactly `keep` entries.
        """
        if self.uneven:
            return entries.where(MethodCall(self, entries, keep).reduce_uneven())
        slots, merged, _ = MethodCall(self, entries, keep).reduce()
        return entries.gather(slots) if merged is None else replace(merged, tags=take_slots(entries.tags, slots))

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the budget of one layer in entries; the sum over all layers may not exceed `keep * layers`."""
        return keep

    def routing(self, layers: int) -> Routing | None:
        """Return how many visual tokens run through each layer; None if all run through all."""
        return None

    def transfer(self, layer: int, layers: int) -> float | None:
        """Return the weight with which text after a video reads the evicted entries of one layer; None in other
        layers."""
        return None

    def banked(self, entries: Entries) -> int:
        """Return how many leading entries of a layer a session may offload until attention reads them.

        Args:
            entries: everything the layer holds after compression, text included; their grid is that of the newest
                segment, None if all entries are text.
        """
        return len(entries)

    @property
    def fresh(self) -> int:
        """Return how many of the newest frames of a video are re-encoded, with no earlier frame in context, before a
        question reads them; frames with evicted entries are excluded.
        """
        return 0

    @property
    def recall_share(self) -> float:
        """Return the share of a segment's entries that frames from an archive of all frames take while a question is
        answered; 0 for methods without an archive.
        """
        return 0.0

    def recall_margin(self, calibration: Mapping[str, Any]) -> float | None:
        """Return the margin of an answer's first token, the difference of its logit from the next best, from which on
        no frames are retrieved from the archive; None to retrieve frames for every question.

        Args:
            calibration: calibrations stored in the model's configuration, by name.
        """
        return None

    def frame_scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Score archived frames for a question, (frames,) fp32; the highest are retrieved.

        Args:
            queries: mean un-rotated query of the question in a layer, (attention heads, head_dim) fp32; those of one KV
                head are adjacent.
            keys: mean un-rotated key of each frame, (frames, kv_heads, head_dim) fp32.
        """
        raise NotImplementedError(f"{type(self).__name__} brings no frames back")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "compress" in cls.__dict__:
            raise TypeError(f"{cls.__name__} overrides compress(), which nothing calls: override reduce().")

    @property
    def observer(self) -> Compressor:
        """The method whose settings configure the capture of inputs: this one, or the wrapped one."""
        return self

    def describe(self) -> dict[str, object]:
        """Return the settings by name, as they appear in reports and result rows."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def even(method: Compressor) -> bool:
    """Whether a method gives every layer the same budget."""
    return type(method).layer_budget is Compressor.layer_budget


def deferred(method: Compressor) -> bool:
    """Whether a method chooses once all layers hold a pass, from the deepest layer to the first."""
    return "deeper" in method.needs


def checked_layer_budgets(method: Compressor, keep: int, layers: int) -> tuple[int, ...]:
    """Ask a method for the budget of every layer and validate the answers.

    Args:
        method: the method to ask.
        keep: entries that a layer may keep on average.
        layers: number of compressed layers.

    Returns:
        Entries that each layer may keep, in layer order.

    Raises:
        MethodError: a budget is not a whole number from 0, or the budgets sum to more than `keep * layers`.
        KVPressVideoError: any other error of the package that the method raised, unchanged.
    """
    budgets = [
        _asked(
            f"{type(method).__name__}.layer_budget(keep={keep}, layer={layer}, layers={layers})",
            partial(method.layer_budget, keep, layer, layers),
        )
        for layer in range(layers)
    ]
    if sum(budgets) > keep * layers:
        raise MethodError(
            f"{type(method).__name__}.layer_budget() gives {layers} layers {sum(budgets)} entries together, more than "
            f"the {keep * layers} of {keep} per layer: {', '.join(map(str, budgets))}."
        )
    return tuple(budgets)


def checked_banked(method: Compressor, entries: Entries) -> int:
    """Ask a method how many leading entries to offload and validate the answer.

    Raises:
        MethodError: the answer is not a whole number between 0 and the number of entries.
    """
    call = f"{type(method).__name__}.banked() of {len(entries)} entries"
    banked = _asked(call, partial(method.banked, entries))
    if banked > len(entries):
        raise MethodError(f"{call} returned {banked}: return at most {len(entries)}.")
    return banked


def _asked(call: str, ask: Callable[[], Any]) -> int:
    """Call a method and validate that it returns a whole number from 0."""
    try:
        number = ask()
    except KVPressVideoError:
        raise
    except Exception as error:
        raise MethodError(f"{call}: {type(error).__name__}: {error}") from error
    if not is_whole(number) or number < 0:
        raise MethodError(f"{call} returned {number!r}: return a whole number from 0.")
    return int(number)
