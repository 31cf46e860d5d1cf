"""Routing of tokens past layers: the number of visual tokens that run through each layer, and their selection."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from numbers import Real
from typing import NamedTuple

from torch import Tensor

from ..errors import MethodError
from .base import Compressor
from .entries import Entries

_UNSERVED = frozenset({"deeper", "reconstruction"})


class Routing(NamedTuple):
    """Shares of the visual tokens that run through the compressed layers; the others skip a layer.

    Attributes:
        shares: share of each layer, above 0 and at most 1; 1 in the first layer.
        router: method that scores the tokens, on the entries of the pass in the last earlier layer with share 1.
    """

    shares: tuple[Fraction, ...]
    router: Compressor


@dataclass(frozen=True)
class OneVote(Compressor):
    """Keep the same entries in all heads, by the mean of a method's scores over the heads.

    Attributes:
        base: method that gives each entry a score.
    """

    base: Compressor

    def scores(self, entries: Entries) -> Tensor:
        """Average the scores of the base over all heads, (batch, kv_heads, n) fp32."""
        scores = self.base.checked_scores(entries).float()
        return entries.context.spread.mean(scores).expand_as(scores)


def routes(method: Compressor) -> bool:
    """Whether a method may let tokens skip layers."""
    return type(method).routing is not Compressor.routing


def checked_routing(method: Compressor, layers: int) -> Routing | None:
    """Ask a method for its routing and validate it.

    Args:
        method: the method to ask.
        layers: number of compressed layers.

    Returns:
        The routing, None if all visual tokens run through all layers.

    Raises:
        MethodError: no `Routing`, not one share per layer, a share outside of 0 to 1, a first layer that tokens skip,
            or a method with needs for which every token has to run through every layer.
    """
    routing, name = method.routing(layers), type(method).__name__
    if not isinstance(routing, Routing | None):
        raise MethodError(
            f"{name}.routing() returned {type(routing).__name__}: return Routing(shares, router) or None."
        )
    if routing is None or all(share == 1 for share in routing.shares):
        return None
    shares = ", ".join(map(str, routing.shares))
    if len(routing.shares) != layers:
        raise MethodError(f"{name}.routing() gives {len(routing.shares)} shares for {layers} layers: give each one.")
    if not all(0 < share <= 1 for share in routing.shares):
        raise MethodError(f"{name}.routing() gives the shares {shares}: they must be above 0 and at most 1.")
    if routing.shares[0] != 1:
        raise MethodError(f"{name}.routing() gives the first layer {routing.shares[0]}: nothing before it can choose.")
    if unserved := sorted(_UNSERVED & (method.needs | routing.router.needs)):
        raise MethodError(f"{name} needs {', '.join(unserved)}, which tokens that skip layers cannot give.")
    return routing


def checked_transfer(method: Compressor, layers: int) -> tuple[int, float] | None:
    """Return the layer whose evicted entries the text reads and their weight, as declared by a method, validated.

    Raises:
        MethodError: there are several such layers, the weight is not a finite number, or tokens skip the layer.
    """
    found = [(layer, weight) for layer in range(layers) if (weight := method.transfer(layer, layers)) is not None]
    if not found:
        return None
    name, routing = type(method).__name__, checked_routing(method, layers)
    if len(found) > 1:
        raise MethodError(f"{name}.transfer() names {len(found)} layers: name one, and return None for the others.")
    [(_, weight)] = found
    if not isinstance(weight, Real) or not isfinite(weight):
        raise MethodError(f"{name}.transfer() returned {weight!r}: return a finite number.")
    if "rope" not in method.needs:
        raise MethodError(f"{name} transfers entries, for which text queries are rotated: add 'rope' to its needs.")
    if method.uneven:
        raise MethodError(f"{name} transfers entries, for which heads must keep equal numbers: choose another base.")
    if routing is not None and routing.shares[found[0][0]] != 1:
        raise MethodError(
            f"{name}.transfer() names layer {found[0][0]}, which tokens skip: name one that all run through."
        )
    return found[0]
