"""Rules that need no model: a method on random entries of first and later passes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, replace

import torch

from ..compressor.base import Compressor, checked_banked, checked_layer_budgets
from ..compressor.entries import Entries, Grid
from ..compressor.results import MethodCall
from ..errors import MissingInputError
from .random_entries import GRID, as_declared, first_frames, footage, later, thinned
from .trial import Broken, Subject, Trial, always, prunes, scores

FRAME = GRID.patches
HALF = GRID.tokens // 2
IMAGE = Grid(1, GRID.rows, GRID.columns)
_PARTS = ("keys", "values", "tags", "places")


def same(one: Entries, other: Entries) -> bool:
    """Whether two sets of entries are equal bit for bit, ignoring padding in front of all heads."""
    one, other = _trimmed(one), _trimmed(other)
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in _PARTS)


def _trimmed(entries: Entries) -> Entries:
    longest = int((entries.index >= 0).sum(dim=-1).max())
    return entries.slice(len(entries) - longest, len(entries))


def _nearly_same(one: Entries, other: Entries) -> bool:
    """Whether two sets of entries are equal up to rounding, such as that of keys un-rotated and rotated back."""
    if len(one) != len(other) or not torch.equal(one.tags, other.tags):
        return False
    return all(torch.allclose(getattr(one, part), getattr(other, part), rtol=0, atol=1e-4) for part in _PARTS)


def second_pass(method: Compressor, entries: Entries, keep: int, frames: int = 7) -> Entries:
    """Return the cache after a second pass: what a method kept of the first `frames`, then the remaining frames."""
    return later(method.compress(first_frames(entries, frames), keep), entries, frames)


def check_kept(kept: Entries, entries: Entries, keep: int, uneven: bool = False) -> None:
    """Check that exactly `keep` different entries per row and head (on average if heads are uneven, padded in front)
    are left, in order and finite.

    Raises:
        Broken: they are not.
    """
    shape, real = (*entries.keys.shape[:2], keep), kept.index >= -1
    if uneven:
        shape, real = kept.keys.shape[:3], kept.index >= 0
        counts = real.sum(dim=(1, 2)).tolist()
        if any(count != keep * shape[1] for count in counts):
            raise Broken(f"{counts} entries are left in the rows, expected {keep * shape[1]} in {shape[1]} heads each.")
    for part in _PARTS:
        if getattr(kept, part).shape[:3] != shape:
            raise Broken(f"{part} of shape {tuple(getattr(kept, part).shape)} are left, expected {shape} and a width.")
    if not bool(((kept.index.diff(dim=-1) > 0) | ~real[..., :-1]).all()):
        raise Broken(f"the {keep} entries that are left are not in sequence order, or one is there twice.")
    place = torch.searchsorted(entries.index.contiguous(), kept.index.contiguous())
    if not torch.equal(entries.gather(place).tags[real], kept.tags[real]):
        raise Broken("an entry that is left carries the tags of none of the given entries.")
    if not bool(kept.keys.isfinite().all() and kept.values.isfinite().all()):
        raise Broken("keys or values that are left hold NaN or infinity.")


def lacking(method: Compressor) -> str:
    """Return the error of a method whose input random entries lack, such as a calibration of the model; empty if they
    suffice.
    """
    try:
        method.compress(as_declared(footage(), method.needs), HALF)
    except MissingInputError as error:
        return str(error)
    except Exception:  # the rules report it
        return ""
    return ""


def _keeps(subject: Subject, entries: Entries, budgets: Iterable[int]) -> None:
    for keep in budgets:
        kept = subject.compress(entries, keep)
        if kept is not None:
            check_kept(kept, entries, keep, subject.method.uneven)


def _everything(subject: Subject) -> None:
    for entries, which in ((footage(), "a first pass"), (thinned(footage(), 7, HALF), "a later pass")):
        kept = subject.compress(entries, len(entries))
        if kept is not None and not _nearly_same(kept, entries):
            raise Broken(
                f"{subject.name} may keep all {len(entries)} entries of {which}, and changes them: return them as they "
                "are where keep == len(entries)."
            )


def _exactly(subject: Subject) -> None:
    for layer in range(4):
        _keeps(subject, footage(layer=layer), (2 * FRAME, 3 * FRAME - 1, HALF, HALF + 1, GRID.tokens - 1))


def _below_a_frame(subject: Subject) -> None:
    _keeps(subject, footage(), (0, 1, 3, FRAME - 1))


def _an_image(subject: Subject) -> None:
    _keeps(subject, footage(IMAGE), (5, FRAME - 1))


def _later_passes(subject: Subject) -> None:
    for keep in (2 * FRAME, 3 * FRAME, HALF):
        survivors = subject.compress(first_frames(footage(), 7), keep)
        if survivors is not None:
            _keeps(subject, later(survivors, footage(), 7), (keep,))


def _smaller_budgets(subject: Subject) -> None:
    survivors = subject.compress(footage(), HALF)
    if survivors is not None:
        _keeps(subject, replace(survivors, context=footage().context), (3 * FRAME,))


def _twice_the_same(subject: Subject) -> None:
    one, other = subject.compress(footage(), HALF + 1), subject.compress(footage(), HALF + 1)
    if one is not None and other is not None and not same(one, other):
        raise Broken(
            f"{subject.name} keeps different entries of the same input when it is called again: draw random numbers "
            "from a generator with a fixed seed, and keep nothing between calls."
        )


def _leaves_the_input(subject: Subject) -> None:
    entries = footage()
    if subject.compress(entries, HALF) is not None and not same(entries, footage()):
        raise Broken(f"{subject.name} changes the cached entries in place: work on copies, e.g. entries.keys.clone().")


def _rows_apart(subject: Subject) -> None:
    keep, both = 3 * FRAME, footage(batch=2)
    survivors = subject.compress(first_frames(both, 7), keep)
    for entries in [both] if survivors is None else [both, later(survivors, both, 7)]:
        together = subject.compress(entries, keep)
        for row in (0, 1) if together is not None else ():
            alone = subject.compress(entries.rows([row]), keep)
            if together is not None and alone is not None and not same(alone, together.rows([row])):
                raise Broken(
                    f"{subject.name} keeps other entries of a row in a batch of two than of the row alone: compare "
                    "entries within a row only."
                )


def _in_type(entries: Entries, dtype: torch.dtype) -> Entries:
    return replace(entries, keys=entries.keys.to(dtype), values=entries.values.to(dtype))


def _half_precision(subject: Subject) -> None:
    kept = subject.compress(_in_type(footage(), torch.bfloat16), HALF)
    if kept is not None and (kept.keys.dtype, kept.values.dtype) != (torch.bfloat16, torch.bfloat16):
        raise Broken(f"{subject.name} returns {kept.keys.dtype} for entries in torch.bfloat16.")


def _scores_in_fp32(subject: Subject) -> None:
    half = _in_type(footage(), torch.bfloat16)
    kept, reference = subject.compress(half, HALF), subject.compress(_in_type(half, torch.float32), HALF)
    if kept is not None and reference is not None and not torch.equal(kept.tags, reference.tags):
        raise Broken(
            f"{subject.name} keeps other entries in bfloat16 than of the same numbers in float32: score in fp32, e.g. "
            "entries.keys.float()."
        )


def _finite_scores(subject: Subject) -> None:
    entries = as_declared(footage(), subject.method.needs)
    given = subject.attempt(f"{HALF} of {len(entries)}", MethodCall(subject.method, entries, HALF).scores)
    if given is not None and bool(given.isinf().all(dim=-1).any()):
        raise Broken(
            f"{subject.name} gives all {len(entries)} entries of a head infinite scores, which rank none of them: "
            "guard overflows and divisions by zero."
        )


def _embeddings(subject: Subject) -> None:
    entries = footage(heads=1)
    entries = replace(entries, values=entries.values[..., :0], context=replace(entries.context, rope=None))
    _keeps(subject, entries, (2 * FRAME, HALF))


def _layer_budgets(subject: Subject) -> None:
    subject.attempt(f"{HALF} in each of 8 layers", lambda: checked_layer_budgets(subject.method, HALF, 8))


def _bank(subject: Subject) -> None:
    checked_banked(subject.method, footage())


def _settings(subject: Subject) -> None:
    described = subject.method.describe()
    missing = [field.name for field in fields(subject.method) if field.name not in described]
    if missing:
        raise Broken(f"{subject.name}.describe() leaves out the settings {', '.join(missing)}.")
    for name, value in described.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise Broken(
                f"{subject.name}.describe() gives the setting {name} as {type(value).__name__}: result rows hold plain "
                "numbers, texts and lists, so override describe()."
            ) from None


ON_ENTRIES = (
    Trial("keeps all entries, unchanged, if the budget allows", _everything, may_refuse=True, applies=always),
    Trial("keeps exactly the budget in every layer and head", _exactly),
    Trial("keeps exact budgets below one frame, or refuses them", _below_a_frame, may_refuse=True),
    Trial("keeps exact budgets of one image", _an_image, may_refuse=True),
    Trial("compresses its survivors again, followed by new frames", _later_passes),
    Trial("compresses its survivors again, without new frames", _smaller_budgets),
    Trial("ranks entries by scores that are not all infinite", _finite_scores, applies=scores),
    Trial("keeps the same entries for the same input", _twice_the_same),
    Trial("leaves its input unchanged", _leaves_the_input),
    Trial("compares nothing across the rows of a batch", _rows_apart),
    Trial("keeps the dtype of half-precision entries", _half_precision),
    Trial("ranks half-precision entries in fp32", _scores_in_fp32, advice=True),
    Trial("compresses embeddings before prefill", _embeddings, may_refuse=True, applies=prunes),
    Trial("spreads a budget over layers without exceeding it", _layer_budgets, may_refuse=True),
    Trial("offloads no more entries than there are", _bank, applies=always),
    Trial("describes its settings in plain types", _settings, applies=always),
)
"""Rules that apply to every method, whatever it selects."""
