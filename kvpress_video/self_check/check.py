"""Check a model without a dedicated adapter once, and record which features agree with the stock model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.masks import FLASH, check_attention
from ..compressor.entries import Kind
from ..models import general_adapter, has_dedicated_adapter, unsupported
from ..models.findings import Feature, Findings, findings_of, remember
from ..models.general import MEDIA, General
from ..models.text_layers import CHUNKED, FULL, RECURRENT, SLIDING, WITHOUT_CACHE
from ..models.wrappers import unwrapped
from ..utils.concurrency import model_lock
from .placement import check_placement
from .positions import check_compact, check_rotation
from .prompts import NoPrompt, PromptMaker, padded_batch, prompt_makers, seeded
from .queries import check_queries
from .trials import STEPS, Conversation, Disagreement, Trials, reason_of

_CURE = "; pass the output of its processor for one image: kvpress_video.inspect(model, inputs)"


def ensure_checked(model: Any, inputs: Mapping[str, Any] | None = None) -> None:
    """Check a model, unless it has a dedicated adapter or was checked before with the same dtype and attention.

    With inputs it is checked again, since an earlier check may have lacked a template of its pixels.

    Args:
        model: a transformers model, wrapped or not.
        inputs: output of its processor for one image or one video, as a template of the pixels' shapes; needed for
            vision towers with an unknown input format.

    Raises:
        UnsupportedModelError: the check failed.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module) or not hasattr(model, "config") or has_dedicated_adapter(model):
        return
    with model_lock(model):
        if inputs or findings_of(model) is None:
            remember(model, _checked(model, inputs or {}))


def _checked(model: Any, inputs: Mapping[str, Any]) -> Findings:
    adapter = general_adapter(model)
    implementation = check_attention(adapter.text_model.config._attn_implementation)
    if model.training:
        raise unsupported(model, "it is in training mode: call model.eval() first")
    if implementation not in FLASH:
        return _found(adapter, inputs)
    model.set_attn_implementation("sdpa")  # flash attention takes no mask that hides evicted entries
    try:
        return _found(adapter, inputs)
    finally:
        model.set_attn_implementation(implementation)


def _found(adapter: General, inputs: Mapping[str, Any]) -> Findings:
    model = adapter.model
    makers: dict[Kind, PromptMaker] = {}
    refused: dict[Feature, str] = {}
    for kind in adapter.placeholders:
        try:
            makers[kind], probe = first_that_runs(adapter, kind, inputs)
        except NoPrompt as error:
            refused[MEDIA[kind]] = str(error)
    if not makers:
        raise unsupported(model, f"no synthetic prompt could be run: {' and '.join(refused.values())}{_CURE}")
    placeholders = {kind: maker.placeholder for kind, maker in makers.items()}
    findings = replace(_measured(adapter, probe), placeholders={**adapter.placeholders, **placeholders})
    passed: list[str] = []
    for kind, maker in list(makers.items()):
        trials = Trials(general_adapter(model, findings=findings))
        if wrong := _whole(trials, maker):
            refused[MEDIA[kind]] = wrong
            del makers[kind]
            continue
        if "chunks" not in refused.keys() | adapter.refused.keys() and (wrong := _in_chunks(trials, maker)):
            refused["chunks"] = wrong
        if "input" not in refused and (wrong := _before_prefill(trials, maker)):
            refused["input"] = wrong
        passed += [f"{MEDIA[kind]}: {each}" for each in trials.passed]
    if not makers:
        raise unsupported(model, f"it failed the self-check: {' and '.join(refused.values())}")
    first = next(iter(makers.values()))
    interleaved, wrong = _queries(Trials(general_adapter(model, findings=findings)), first)
    if wrong:
        refused["queries"] = wrong
    findings = replace(findings, refused=refused, interleaved_rope=interleaved)
    findings, wrong = _compact(findings, adapter, first, (False, True) if wrong else (interleaved,))
    if wrong:
        refused["compact"] = wrong
    prompt = "; ".join(f"{MEDIA[kind]} of {_words(maker)}" for kind, maker in makers.items())
    passed += [] if wrong else ["compact positions"]
    return replace(findings, refused=refused, prompt=prompt, passed=passed)


def _words(maker: PromptMaker) -> str:
    grid = "×".join(map(str, maker.grid)) if maker.grid.known else "unknown"
    return f"{maker.grid.tokens} tokens, grid {grid}{'' if maker.most > 1 else ' (the stock model takes one per call)'}"


def first_that_runs(adapter: General, kind: Kind, inputs: Mapping[str, Any]) -> tuple[PromptMaker, Any]:
    """Return the first prompt maker whose prompts the stock model accepts, and the resulting cache."""
    wrong = ""
    for maker in prompt_makers(adapter, kind, inputs):
        caches: list[Any] = []
        wrong = reason_of(partial(_probe, adapter, maker, caches))
        if not wrong:
            return maker, caches[0]
    raise NoPrompt(f"the stock model rejects a synthetic prompt with {MEDIA[kind]}: {wrong}")


@torch.no_grad()
def _probe(adapter: General, maker: PromptMaker, caches: list[Any]) -> None:
    """Run the stock model.

    Raises:
        Disagreement: it generates without the module that receives the placeholder tokens.
    """
    talk, called = _talk(maker, 0), set[nn.Module]()
    with ExitStack() as undo:
        for module in (adapter.inner, adapter.text_model):
            undo.callback(module.register_forward_pre_hook(lambda module, args: called.add(module)).remove)
        try:
            caches.append(talk.run(adapter.model, adapter.text_model.config)[1])
        finally:
            if adapter.text_model in called and adapter.inner not in called:
                raise Disagreement(
                    f"its generate() passes embeddings to its language model and never calls "
                    f"{type(adapter.inner).__name__}, which sees the placeholder tokens"
                )


def _measured(adapter: General, cache: Any) -> Findings:
    """Read the sizes of a stock cache of one row.

    Raises:
        UnsupportedModelError: keys and values, or layers, are of different sizes.
    """
    kinds = adapter.layer_kinds
    shapes = {
        (layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3])
        for layer, kind in zip(cache.layers, kinds, strict=False)
        if kind == FULL and layer.keys is not None
    }
    unwritten = [number for number, kind in enumerate(kinds) if kind == FULL and cache.layers[number].keys is None]
    if unwritten:
        raise unsupported(adapter.model, f"its layers {unwritten} write no cache")
    if len(shapes) > 1:
        raise unsupported(adapter.model, f"its layers differ in KV heads, key width and value width: {sorted(shapes)}")
    heads, key_width, value_width = shapes.pop()
    windows = [layer for layer, kind in zip(cache.layers, kinds, strict=False) if kind in (SLIDING, CHUNKED)]
    per_token = sum(
        part[0, :, 0].numel() * part.element_size() for layer in windows for part in (layer.keys, layer.values)
    )
    states = [layer for layer, kind in zip(cache.layers, kinds, strict=False) if kind not in (FULL, SLIDING, CHUNKED)]
    return Findings(heads, key_width, value_width, adapter.placeholders, per_token, sum(map(_state_bytes, states)))


def _state_bytes(layer: Any) -> int:
    held = [part for value in vars(layer).values() for part in (value.values() if isinstance(value, dict) else [value])]
    return sum(part.numel() * part.element_size() for part in held if isinstance(part, Tensor))


def _talk(maker: PromptMaker, seed: int, **sizes: int) -> Conversation:
    return _conversation(maker, [maker.prompt(seed=seed, **sizes)], seed)


def _conversation(maker: PromptMaker, rows: Sequence[Mapping[str, Tensor]], seed: int) -> Conversation:
    inputs = rows[0] if len(rows) == 1 else padded_batch(maker, rows)

    def said(count: int, start: int) -> Tensor:
        words = [maker.words(count, seeded(seed + start + row)) for row in range(len(rows))]
        return torch.tensor(words, device=inputs["input_ids"].device)

    return Conversation(inputs, said(2 * STEPS, 100), said(4, 200))


def _whole(trials: Trials, maker: PromptMaker) -> str:
    """Check prefill in one pass; return the first failure."""
    talk = _talk(maker, 0)
    return _first_wrong(
        partial(check_placement, trials.adapter, maker),
        partial(trials.keeps_everything, talk, "whole"),
        partial(trials.keeps_half, talk, "whole"),
        *(partial(trials.pads, *batch, "whole", None) for batch in _batches(maker)),
    )


def _in_chunks(trials: Trials, maker: PromptMaker) -> str:
    """Check split and chunked prefill; return the first failure."""
    talk, chunk = _talk(maker, 0), maker.grid.patches
    return _first_wrong(
        partial(trials.keeps_everything, talk, "chunked", chunk),
        partial(trials.keeps_half, talk, "split"),
        partial(trials.keeps_half, talk, "chunked", chunk),
        *(partial(trials.pads, *batch, "split", None) for batch in _batches(maker)),
        *(partial(trials.pads, *batch, "chunked", chunk) for batch in _batches(maker)),
    )


def _batches(maker: PromptMaker) -> list[tuple[Conversation, list[Conversation]]]:
    """Make a padded batch, and each of its rows; none if a call of the stock model takes one item only."""
    if maker.most == 1:
        return []
    rows = _rows(maker)
    together = _conversation(maker, rows, 5)
    alone = [Conversation(row, together.said[number : number + 1], together.more[number : number + 1])
             for number, row in enumerate(rows)]  # fmt: skip
    return [(together, alone)]


def padded_rows(maker: PromptMaker) -> dict[str, Tensor]:
    """Make the inputs of a padded batch of two rows with one item each."""
    return padded_batch(maker, _rows(maker))


def _rows(maker: PromptMaker) -> list[dict[str, Tensor]]:
    return [maker.prompt(items=1, before=3, seed=5), maker.prompt(items=1, before=7, after=4, seed=6)]


def _before_prefill(trials: Trials, maker: PromptMaker) -> str:
    """Check compression before prefill; return the first failure."""
    others = set(trials.adapter.layer_kinds) - {FULL} - WITHOUT_CACHE
    if others:
        return f"no mask shows what its layers of type {', '.join(sorted(others))} hold without the dropped tokens"
    return _first_wrong(
        partial(trials.keeps_half, _talk(maker, 0), "whole", stage="input"),
        *(partial(trials.pads, *batch, "whole", None, stage="input") for batch in _batches(maker)),
    )


def _compact(findings: Findings, adapter: General, maker: PromptMaker, orders: Sequence[bool]) -> tuple[Findings, str]:
    """Check compact positions; return the findings with the order of M-RoPE sections, and the failure.

    Args:
        findings: findings so far.
        adapter: adapter of the model.
        maker: maker of prompts.
        orders: values to try in turn for whether sections alternate.
    """
    others = set(adapter.layer_kinds) - {FULL} - RECURRENT - WITHOUT_CACHE
    if others:
        return findings, f"the keys of its layers of type {', '.join(sorted(others))} do not move"
    if "chunks" in findings.refused.keys() | adapter.refused.keys():
        return findings, "it is checked on a chunked prefill, which the model does not support"
    talk, wrong = _talk(maker, 0), ""
    for interleaved in orders:
        wrong = reason_of(partial(check_rotation, adapter, talk, interleaved))
        if not wrong:
            findings = replace(findings, interleaved_rope=interleaved)
            trials = Trials(general_adapter(adapter.model, findings=findings))
            return findings, reason_of(partial(check_compact, trials, talk, maker.grid.patches))
    return findings, wrong


def _queries(trials: Trials, maker: PromptMaker) -> tuple[bool, str]:
    """Check recomputed queries; return whether M-RoPE sections alternate, and the failure."""
    wrong = ""
    for interleaved in (False, True):
        wrong = reason_of(partial(check_queries, trials, _talk(maker, 0), interleaved))
        if not wrong:
            return interleaved, ""
    return False, wrong


def _first_wrong(*trials: Any) -> str:
    return next((wrong for wrong in map(reason_of, trials) if wrong), "")
