"""Validation of a method's results before the cache uses them.

Types, shapes, dtypes and devices are checked everywhere. Values (NaN, order, range) are checked on the CPU only: on an
accelerator reading them would stall the host. There, NaN scores rank lowest, slots outside the entries trip the
device's own index assertion, and the other value checks are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, KVPressVideoError, MethodError
from .entries import QUERYING, Entries, Places

if TYPE_CHECKING:
    from .base import Compressor


_CALLED: ContextVar[bool] = ContextVar("a method is being called", default=False)


class WrongSlotsError(BudgetError):
    """Slots that are not the requested number of different entries in ascending order."""


class Kept(NamedTuple):
    """The result of `Compressor.reduce()`.

    Attributes:
        slots: kept entries, (batch, kv_heads, keep) int64, ascending.
        merged: replacements for the entries at `slots`, `keep` entries that share no memory with them; None to keep
            those entries unchanged. Keys, values and places are replaced; tags stay those of the slots.
        scores: the result of `scores()` in the same call, (batch, kv_heads, n), which spares a method that needs
            `"deeper"` a second call.
    """

    slots: Tensor
    merged: Entries | None = None
    scores: Tensor | None = None


@dataclass(frozen=True)
class MethodCall:
    """One call of a method, with the checks on its result.

    Attributes:
        method: the method to call.
        entries: the entries of one segment and layer.
        keep: how many of them may stay, per row and head.
    """

    method: Compressor
    entries: Entries
    keep: int

    def reduce(self) -> Kept:
        """Run `reduce()` and validate the result.

        Raises:
            MethodError: the method raised an exception, changed the entries in place, or returned tensors of the wrong
                type, shape, dtype or device, or NaN.
            BudgetError: the slots are not `keep` different entries in ascending order (`WrongSlotsError`), or the
                method refuses the budget.
            KVPressVideoError: any other error of the package that the method raised, unchanged.
        """
        with self._located():
            kept: Any = self.method.reduce(self.entries, self.keep)
            if not isinstance(kept, Kept):
                raise MethodError(
                    f"reduce() returned {_kind(kept)}: return Kept(slots), or Kept(slots, merged) to merge entries."
                )
            self._check_slots(kept.slots)
            if kept.merged is not None:
                self._check_merged(kept.merged)
            if kept.scores is not None:
                check_scores(kept.scores, self.entries)
        return kept

    def reduce_uneven(self) -> Tensor:
        """Run `select_uneven()` and validate the result: which entries stay, (batch, kv_heads, n) bool.

        Raises:
            MethodError, KVPressVideoError: as `reduce`.
            BudgetError: not `keep` entries per head stay in a row, or padding does (`WrongSlotsError`, on the CPU).
        """
        with self._located():
            stays: Any = self.method.select_uneven(self.entries, self.keep)
            shape = self.entries.keys.shape[:3]
            if not isinstance(stays, Tensor) or stays.dtype != torch.bool or stays.shape != shape:
                raise MethodError(f"select_uneven() returned {_kind(stays)}: return a bool tensor {tuple(shape)}.")
            if stays.device != self.entries.keys.device:
                raise MethodError(f"it returned a tensor on {stays.device}, not on {self.entries.keys.device}.")
            if stays.device.type == "cpu":
                self._check_stays(stays)
        return stays

    def _check_stays(self, stays: Tensor) -> None:
        asked, kept = self.keep * stays.shape[1], stays.sum(dim=(1, 2)).tolist()
        if any(count != asked for count in kept):
            raise WrongSlotsError(
                f"{self}: kept {', '.join(map(str, kept))} entries in the heads of a row together where {asked} were "
                f"asked for, {self.keep} per head: keep exactly as many, or raise BudgetError to refuse."
            )
        if bool((stays & (self.entries.index < 0)).any()):
            raise WrongSlotsError(f"{self}: padding was kept: choose among entries whose index is not negative.")

    def scores(self) -> Tensor:
        """Run `scores()` of the method that scores, the wrapped one of a wrapper, and validate them.

        Raises:
            MethodError: as `reduce`, or scores of the wrong shape, dtype or device, or (on the CPU) NaN.
        """
        with self._located():
            return self.method.observer.checked_scores(self.entries)

    def __str__(self) -> str:
        context, length = self.entries.context, len(self.entries)
        if context.grid is None or not context.grid.known:
            which = f"{length} entries"
        elif self.entries.complete:
            frames = context.grid.frames
            which = f"first pass, {length} entries in {frames} whole frame{'s' * (frames != 1)}"
        else:
            kind = "whole" if _fills_frames(self.entries) else "partial"
            which = f"later pass, {length} of {context.grid.tokens} entries left, in {kind} frames"
        return f"{type(self.method).__name__} in layer {context.layer} ({which}; {self.keep} to keep)"

    @contextmanager
    def _located(self) -> Iterator[None]:
        """Name the method, layer, pass and entries in the errors of a call."""
        versions, token = _versions(self.entries), _CALLED.set(True)
        try:
            yield
            if _versions(self.entries) != versions:
                raise MethodError("it changed the cached entries in place: work on copies, e.g. entries.keys.clone().")
        except MethodError as error:
            raise MethodError(f"{self}: {error}{self._overflow()}") from error
        except (KVPressVideoError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise MethodError(
                f"{self}: {type(error).__name__}: {error}{self._undeclared(error)}{self._survivors()}{self._overflow()}"
            ) from error
        finally:
            _CALLED.reset(token)

    def _undeclared(self, error: Exception) -> str:
        """Return a hint if the method may have read queries that it does not declare."""
        if "NoneType" not in str(error) or self.entries.context.queries is not None or self.method.needs & QUERYING:
            return ""
        return '; entries.context.queries is None in methods that do not declare it: declare "queries" in needs.'

    def _survivors(self) -> str:
        """Return a hint if earlier passes left less than the grid."""
        grid = self.entries.context.grid
        if grid is None or not grid.known or self.entries.complete:
            return ""
        return "; in later passes the entries do not fill the grid: tell them by entries.frame and entries.patch."

    def _overflow(self) -> str:
        """Return a hint if the model itself produced NaN or infinity."""
        given = (self.entries.keys, self.entries.values)
        if all(part.device.type != "cpu" or bool(part.isfinite().all()) for part in given):
            return ""
        return " The model's own keys or values hold NaN or infinity: load it in another dtype."

    def _check_slots(self, slots: object) -> None:
        keys = self.entries.keys
        if not isinstance(slots, Tensor) or slots.dtype != torch.int64:
            raise MethodError(f"it returned {_kind(slots)} as slots: return int64 indices of the entries.")
        if slots.ndim != 3 or slots.shape[:2] != keys.shape[:2]:
            raise MethodError(
                f"it returned slots of shape {tuple(slots.shape)}: expected (batch, kv_heads, keep) = "
                f"{(*keys.shape[:2], self.keep)}."
            )
        if slots.device != keys.device:
            raise MethodError(f"it returned slots on {slots.device}, the entries are on {keys.device}.")
        if slots.shape[2] != self.keep:
            raise WrongSlotsError(
                f"{self}: kept {slots.shape[2]} entries where {self.keep} were asked for: keep exactly as many, or "
                "raise BudgetError to refuse."
            )
        if slots.device.type != "cpu" or not self.keep:
            return
        if bool((slots.diff(dim=-1) <= 0).any()):
            raise WrongSlotsError(f"{self}: {_disorder(slots)}, or select with top(scores, keep).")
        if slots.min() < 0 or slots.max() >= len(self.entries):
            raise WrongSlotsError(
                f"{self}: slots must be between 0 and {len(self.entries) - 1}, got {int(slots.min())} to "
                f"{int(slots.max())}."
            )

    def _check_merged(self, merged: object) -> None:
        if not isinstance(merged, Entries):
            raise MethodError(f"reduce() returned {_kind(merged)} as merged entries: return Entries or None.")
        for name in ("keys", "values", "places"):
            part, like = getattr(merged, name), getattr(self.entries, name)
            expected = (*like.shape[:2], self.keep, like.shape[3])
            if not isinstance(part, Tensor) or tuple(part.shape) != expected:
                raise MethodError(f"merged {name} are {_kind(part)}: expected shape {expected}.")
            if part.dtype != like.dtype or part.device != like.device:
                raise MethodError(
                    f"merged {name} are {part.dtype} on {part.device}: expected {like.dtype} on {like.device}, as "
                    f"entries.{name} are."
                )
            if _same_memory(part, like):
                raise MethodError(f"merged {name} share memory with the cache: clone them.")
        if merged.keys.device.type == "cpu":
            _check_finite("merged keys", merged.keys)
            _check_finite("merged values", merged.values)
            _check_finite("merged positions", merged.places[..., : Places.IMPORTANCE])
            _check_finite("merged positions", merged.places[..., Places.IMPORTANCE + 1 :])


def _disorder(slots: Tensor) -> str:
    """Describe the repeated slot, or else the first one out of order, and the remedy."""
    ordered = slots.sort(dim=-1).values
    if (repeated := ordered[..., 1:][ordered.diff(dim=-1) == 0]).numel():
        return f"slot {int(repeated[0])} is selected more than once: select different entries"
    late = slots[..., 1:][slots.diff(dim=-1) < 0]
    return f"slots must be in ascending order, but {int(late[0])} follows a higher slot: sort them along the last dim"


def check_scores(scores: object, entries: Entries) -> Tensor:
    """Validate one score per entry and return the scores, off the CPU with NaN replaced by -inf.

    Raises:
        MethodError: not a real floating-point tensor of shape (batch, kv_heads, n) on the entries' device, or (on the
            CPU) NaN.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise MethodError(f"scores() returned {_kind(scores)}: return real floating-point scores, e.g. scores.float().")
    if scores.shape != entries.keys.shape[:3]:
        raise MethodError(
            f"scores() returned shape {tuple(scores.shape)}: expected one score per entry, (batch, kv_heads, n) = "
            f"{tuple(entries.keys.shape[:3])}."
        )
    if scores.device != entries.keys.device:
        raise MethodError(f"scores() returned a tensor on {scores.device}, the entries are on {entries.keys.device}.")
    return _without_nan(scores)


def rankable(scores: Tensor) -> Tensor:
    """Replace NaN by the infinity that it ranks as: +inf, as in a sort, but within a call of a method -inf.

    Raises:
        MethodError: NaN on the CPU, within a call of a method.
    """
    if not scores.is_floating_point():
        return scores
    return _without_nan(scores) if _CALLED.get() else scores.nan_to_num(torch.inf, torch.inf, -torch.inf)


def _without_nan(scores: Tensor) -> Tensor:
    if scores.device.type != "cpu":
        return scores.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    if bool(scores.sum().isnan()) and (found := int(scores.isnan().sum())):  # infinities may cancel in the sum
        raise MethodError(f"{found} of {scores.numel()} scores are NaN: a NaN has no rank, so guard divisions by zero.")
    return scores


def _check_finite(name: str, states: Tensor) -> None:
    if not bool(states.isfinite().all()):
        raise MethodError(f"{name} hold NaN or infinity.")


def _fills_frames(entries: Entries) -> bool:
    """Check that entries are whole frames in order; off the CPU, that their number is one of whole frames."""
    frames, rest = divmod(len(entries), entries.grid.patches)
    if rest or not frames or entries.tags.device.type != "cpu":
        return not rest
    by_frame = entries.frame.unflatten(-1, (frames, -1))
    return bool((by_frame == by_frame[..., :1]).all())


def _kind(value: object) -> str:
    """Describe a value of the wrong kind."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__}"


def _same_memory(one: Tensor, other: Tensor) -> bool:
    address = one.untyped_storage().data_ptr()
    return bool(one.numel()) and address != 0 and address == other.untyped_storage().data_ptr()


def _versions(entries: Entries) -> list[int]:
    """Return the version counters of the entries' tensors, which count writes; inference tensors have none."""
    parts = (entries.keys, entries.values, entries.tags, entries.places)
    return [part._version for part in parts if not part.is_inference()]
