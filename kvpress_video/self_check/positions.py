"""Checks of compact positions: the rotation of cached keys, and runs at positions other than the stock ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..compressor.rope import Rope
from ..models.cache_argument import CACHE
from ..models.general import General
from ..models.text_layers import FULL
from ..utils.method_patch import replaced
from .masked_reference import Passes
from .trials import Conversation, Disagreement, Trials, generated

_STEP = (5.5, 3.25, 2.75)  # positions by which a prompt moves in time, rows and columns


@torch.no_grad()
def check_rotation(adapter: General, talk: Conversation, interleaved: bool) -> None:
    """Compare the keys of a prompt at other positions with its re-rotated keys, in every compressed layer.

    Raises:
        Disagreement: a layer rotates its keys differently, or not at all.
        UnsupportedModelError: the rotation changes with the length of the sequence.
    """
    rope, step = Rope.of(adapter.text_model, interleaved), torch.tensor(_STEP)
    if not bool(rope.axes.any()):
        step = step[:1].expand(3)

    def move(kwargs: dict[str, Any]) -> None:
        length = kwargs["inputs_embeds"].shape[1]
        given = kwargs.get("position_ids")
        given = torch.arange(length, device=adapter.text_model.device)[None] if given is None else given
        given, added = given.float(), step.to(given.device)
        spatial = given.ndim == 3 and len(given) > 1
        added = added[:, None, None] if spatial else added[0]
        kwargs["position_ids"] = torch.cat([given[:-3], given[-3:] + added]) if spatial else given + added

    stock, moved = (_prefilled(adapter, talk, change) for change in (lambda kwargs: None, move))
    for number, kind in enumerate(adapter.layer_kinds):
        if kind == FULL:
            keys, wanted = stock.layers[number].keys, moved.layers[number].keys
            found = rope.rotate(keys, step.to(keys.device))
            apart = float((found - wanted).float().square().mean().sqrt() / wanted.float().std())
            if not apart <= (1e-3 if keys.dtype in (torch.float32, torch.float64) else 1e-1):
                raise Disagreement(f"rope does not reproduce the keys of layer {number} (error {apart:.2g})")


def check_compact(trials: Trials, talk: Conversation, chunk: int) -> None:
    """Compare compact positions in a chunked prefill with the masked stock model at the same positions.

    Here tokens have their compact positions from the start; `check_rotation` checks re-rotated keys.

    Raises:
        Disagreement: the logits differ.
    """
    passes, seen = Passes(trials.adapter), list[Tensor]()

    def note(kwargs: dict[str, Any]) -> None:
        seen.append(_axes(kwargs, sum(part.shape[-1] for part in seen)))

    with _changed(trials.adapter, note):
        outcome = trials.compressed(talk, 0.5, "chunked", chunk, passes, positions="compact")
    left = torch.cat(seen, dim=-1)

    def place(kwargs: dict[str, Any]) -> None:
        nonlocal left
        length, given = kwargs["inputs_embeds"].shape[1], kwargs.get("position_ids")
        mine, left = left[..., :length], left[..., length:]
        mine = mine.long() if bool((mine == mine.round()).all()) else mine
        kwargs["position_ids"] = mine if given is not None and given.ndim == 3 else mine[0]

    with _changed(trials.adapter, place):
        reference = trials.stock(talk, passes.hidden())
    trials.agree(outcome.logits, reference, "compact positions", "chunked")


def _axes(kwargs: dict[str, Any], start: int) -> Tensor:
    """Return the positions of a pass, (3, batch, n)."""
    embeddings, given = kwargs["inputs_embeds"], kwargs.get("position_ids")
    if given is None:
        given = (start + torch.arange(embeddings.shape[1], device=embeddings.device))[None]
    axes = given[-3:] if given.ndim == 3 else given[None]
    return axes.float().expand(3, *axes.shape[1:])


def _prefilled(adapter: General, talk: Conversation, change: Callable[[dict[str, Any]], None]) -> Any:
    with _changed(adapter, change):
        return generated(adapter.model, talk.inputs, talk.said[:, :1])[CACHE]


@contextmanager
def _changed(adapter: General, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Change the arguments of every pass of the text model inside the context."""

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            change(kwargs)
            return forward(*args, **kwargs)

        return run

    with replaced(adapter.text_model, "forward", wrap):
        yield
