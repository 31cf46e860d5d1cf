"""The interface of a compression method, and the validation of its declaration.

One file for all that a method may override, most of which is documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import BudgetError, KVPressVideoError, MethodError, MissingInputError, unknown_name
from ..utils.numbers import is_whole
from .entries import Entries, take_slots
from .results import Kept, MethodCall, check_scores, rankable

if TYPE_CHECKING:
    from .routing import Routing

STAGES = ("cache", "input")
FIDELITIES = {
    "exact": "keeps what the source defines: its formula, or its released code",
    "mechanism": "follows the source's rule, with parts left out or replaced",
    "analogy": "pursues the source's idea by other means, such as without its training",
    "ours": "a method of its author's own",
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
    """Base class of compression methods, which choose the visual entries that stay in a cache.

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
            projection (`entries.context.output_weight`); `"attention"`, the attention module with what it was given
            (`entries.context.attention`); `"deeper"`, what `scores()` returned in the next deeper layer
            (`entries.context.deeper`), for which every layer holds the whole pass until the deepest one has run;
            `"router"`, the routing of a mixture of experts, before prefill (`entries.context.router`). `window`,
            `probe`, `n` and `tokens` are settings of the method.
        stages: where the method works: `"cache"`, after the attention of each layer; `"input"`, on the visual
            embeddings before prefill, where the keys are embeddings of one pseudo-head and the values deepstack
            features.
        keeps_all: whether the method keeps every entry, so that a budget does not apply to it.
        presets: settings by the name under which `"method:name"` stands for them.
        source: publication or origin of the method.
        year: year of the source, None if it has none.
        family: family of the idea, one word such as `"attention"` or `"redundancy"`; not checked.
        fidelity: how faithful the method is to its source, from `FIDELITIES`; empty for no claim.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ("cache",)
    keeps_all: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    source: ClassVar[str] = ""
    year: ClassVar[int | None] = None
    family: ClassVar[str] = ""
    fidelity: ClassVar[str] = ""

    def scores(self, entries: Entries) -> Tensor:
        """Score each entry, (batch, kv_heads, n) floating point, best in fp32; entries with higher scores stay."""
        raise NotImplementedError(f"{type(self).__name__} implements neither scores() nor select() nor reduce()")

    def checked_scores(self, entries: Entries) -> Tensor:
        """Score each entry and validate the scores; off the CPU, NaN becomes -inf.

        Raises:
            MethodError: scores of the wrong shape, dtype or device, or (on the CPU) NaN.
        """
        return check_scores(self.scores(entries), entries)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        return top(self.checked_scores(entries), keep)

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Reduce the entries to `keep` per row and head."""
        return Kept(self.select(entries, keep))

    def compress(self, entries: Entries, keep: int) -> Entries:
        """Run `reduce()` and return the result as new entries, in sequence order.

        Raises:
            MethodError: the method failed or returned an unusable result.
            BudgetError: the method cannot keep exactly `keep` entries.
        """
        slots, merged = MethodCall(self, entries, keep).reduce()
        return entries.gather(slots) if merged is None else replace(merged, tags=take_slots(entries.tags, slots))

    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        """Return the entries that one layer may keep; over all layers the sum may not exceed `keep * layers`."""
        return keep

    def routing(self, layers: int) -> Routing | None:
        """Return how many visual tokens run through each layer; None if all run through all."""
        return None

    def transfer(self, layer: int, layers: int) -> float | None:
        """Return the weight with which text after a video reads what one layer evicted of it; None in other layers."""
        return None

    def banked(self, entries: Entries) -> int:
        """Return how many leading entries of a layer a session may offload until attention reads them.

        Args:
            entries: everything the layer holds after compression, text included; their grid is that of the newest
                segment, None if all entries are text.
        """
        return len(entries)

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


def check_observer(method: Any) -> None:
    """Validate the declaration of a method.

    Raises:
        MethodError: a class instead of an instance; an object that is not a `Compressor`; a class that is not a
            dataclass or implements none of `scores()`, `select()` and `reduce()`; `needs` or `stages` of the wrong
            type; or a capture setting that is not a positive integer.
        UnknownNameError: an unknown need, stage or fidelity.
        MissingInputError: a need without the setting that says how to capture it.
    """
    if isinstance(method, type):
        raise MethodError(f"{method.__name__} is a class: pass an instance, {method.__name__}(…).")
    if not isinstance(method, Compressor):
        raise MethodError(
            f"A method is a name or a Compressor, got {type(method).__name__} {method!r:.80}: pass e.g. 'tar'."
        )
    name = type(method).__name__
    _check_dataclass(type(method))
    if not isinstance(method.needs, Set):
        raise MethodError(f"{name}.needs must be a set of names, got {method.needs!r}: write e.g. {{'queries'}}.")
    if not isinstance(method.stages, Collection) or isinstance(method.stages, str) or not method.stages:
        raise MethodError(f"{name}.stages must be a tuple of names, got {method.stages!r}: write e.g. ('cache',).")
    for what, declared, known in (("need", method.needs, NEEDS), ("stage", method.stages, STAGES)):
        for each in declared:
            if each not in known:
                raise unknown_name(f"{what} of {name}", str(each), known)
    if method.fidelity and method.fidelity not in FIDELITIES:
        raise unknown_name(f"fidelity of {name}", str(method.fidelity), FIDELITIES)
    for need in sorted(method.needs):
        _check_capture(name, need, method.observer)
    own, base = type(method), Compressor
    if own.scores is base.scores and own.select is base.select and own.reduce is base.reduce:
        raise MethodError(f"{name} implements neither scores() nor select() nor reduce(): implement one of them.")


def _check_dataclass(kind: type) -> None:
    for each in kind.__mro__[: kind.__mro__.index(Compressor)]:
        if "__dataclass_params__" in vars(each) or not issubclass(each, Compressor):
            continue
        settings = [name for name, note in inspect.get_annotations(each).items() if "ClassVar" not in str(note)]
        if settings or "__init__" in vars(each):
            raise MethodError(
                f"{each.__name__} is not a dataclass, so its settings ({', '.join(settings) or '__init__'}) are "
                "unknown: declare them as fields and decorate the class with @dataclass(frozen=True)."
            )


def _check_capture(name: str, need: str, observer: Compressor) -> None:
    settings = NEEDS[need]
    if missing := [setting for setting in settings if not hasattr(observer, setting)]:
        raise MissingInputError(
            f"{name} needs {need!r} and has no setting {' and '.join(missing)}, which says how it is captured: add it."
        )
    for setting in settings[:1]:
        value = getattr(observer, setting)
        if not is_whole(value) or value < 1:
            raise MethodError(
                f"{name} needs {need!r}, whose setting {setting} must be a whole number above zero, got {value!r}."
            )


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


def top(scores: Tensor, keep: int) -> Tensor:
    """Select the highest scores along the last dimension; of equal scores the earlier one is selected.

    Without a sort: the scores above the lowest selected one are taken, and then as many equal to it as still fit, in
    order.

    Args:
        scores: (..., n), floating point or integers. NaN ranks highest, as in a sort. Within a call of a method it is
            an error on the CPU, and ranks lowest elsewhere, where looking for it would stall the host.
        keep: how many to select.

    Returns:
        Their indices, (..., keep) int64, ascending.

    Raises:
        BudgetError: there are fewer scores than `keep`.
        MethodError: complex or boolean scores, or NaN on the CPU within a call of a method.
    """
    length = scores.shape[-1]
    if not 0 <= keep <= length:
        raise BudgetError(f"cannot keep {keep} of {length} entries")
    if scores.is_complex() or scores.dtype == torch.bool:
        raise MethodError(f"scores are {scores.dtype}: real numbers are needed, e.g. scores.float().")
    if not keep:
        return scores.new_empty((*scores.shape[:-1], 0), dtype=torch.long)
    scores = rankable(scores)
    lowest = scores.topk(keep, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    above, level = scores > lowest, scores == lowest
    room = keep - above.sum(dim=-1, keepdim=True)
    stays = above | (level & (level.cumsum(dim=-1, dtype=torch.int32) <= room))
    turn = torch.where(stays, stays.cumsum(dim=-1), 0)  # the first slot takes what does not stay
    places = torch.arange(length, device=scores.device).expand_as(turn)
    return turn.new_empty((*turn.shape[:-1], keep + 1)).scatter_(-1, turn, places)[..., 1:].contiguous()
