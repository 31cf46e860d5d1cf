"""Recurrent layers that skip padding and probes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..cache.forward_pass import ForwardPass
from ..cache.uncompressed import rows_of
from ..models.cache_argument import STATES
from ..utils.method_patch import replaced


@contextmanager
def follow_rows(recurrence: nn.Module, number: int, forward_pass: ForwardPass) -> Iterator[None]:
    """Run a recurrent module on each row of a pass as if the row were alone.

    The stock module expects padding only in front of a row. The chunks of a prompt may have padding anywhere, and end
    with probes, which must not enter the state.

    Args:
        recurrence: the module, which takes `hidden_states`, a cache and a 2-D `attention_mask`. If the model was given
            a mask, the stock module uses that.
        number: index of its layer.
        forward_pass: the pass in flight.
    """
    padding, probes = [row.padding for row in forward_pass.rows], forward_pass.probes
    if not any(padding) and not probes:
        yield
        return

    def wrap(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        signature = inspect.signature(forward)

        def run(*args: Any, **kwargs: Any) -> Tensor:
            bound = signature.bind(*args, **kwargs)
            arguments = bound.arguments | bound.arguments.pop("kwargs", {})
            if arguments.get("attention_mask") is not None:
                return forward(**arguments)
            return _row_by_row(forward, number, arguments, padding, probes)

        return run

    with replaced(recurrence, "forward", wrap):
        yield


def _row_by_row(
    forward: Callable[..., Tensor], number: int, arguments: dict[str, Any], padding: Sequence[int], probes: int
) -> Tensor:
    """Run rows of equal padding together, without it, and the probes on a copy of the state before them."""
    states, layers = arguments["hidden_states"], arguments[STATES].layers
    whole, end = layers[number], states.shape[1] - probes
    begun = any(whole.has_previous_state.values())
    output = torch.zeros_like(states)
    parts, order = [], []

    def read(layer: Any, given: Tensor) -> Tensor:
        layers[number] = layer
        return forward(**arguments | {"hidden_states": given})

    try:
        for start in sorted(set(padding)):
            rows = [row for row, count in enumerate(padding) if count == start]
            chosen = torch.tensor(rows, device=states.device)
            part = rows_of(whole, chosen)
            if start < end:
                output[chosen, start:end] = read(part, states[chosen, start:end])
            elif not begun:
                read(part, torch.zeros_like(states[chosen, :1]))  # leaves an empty state
            if probes:
                output[chosen, end:] = read(rows_of(part, torch.arange(len(rows))), states[chosen, end:])
            parts.append(part)
            order += rows
        whole = _joined(parts, torch.tensor(order).argsort())
    finally:
        layers[number] = whole
    return output


def _joined(parts: Sequence[Any], rows: Tensor) -> Any:
    """Join the states of several layers in one, with rows in this order."""
    first = parts[0]
    for name in ("conv_states", "recurrent_states"):
        held = [getattr(part, name) for part in parts]
        setattr(first, name, {state: torch.cat([each[state] for each in held]) for state in held[0]})
    first.reorder_cache(rows)
    return first
