"""Check that a stream supports a model and a method, before anything is fed."""

from __future__ import annotations

from ..compressor.base import Compressor
from ..compressor.routing import checked_transfer
from ..errors import BudgetError, UnsupportedModelError
from ..models.base import Adapter


def check_streamable(adapter: Adapter, method: Compressor, compact: bool) -> None:
    """Check that a stream supports a model and a method.

    Args:
        adapter: adapter of the model.
        method: method of the stream.
        compact: whether positions are rescaled.

    Raises:
        UnsupportedModelError: frames cannot be fed separately, or positions of some layers cannot move.
        BudgetError: the method passes evicted entries to the text.
    """
    if adapter.unstreamed:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} {adapter.unstreamed}: use compress() with a budget of tokens or "
            "bytes, whose prefill is capped."
        )
    if adapter.sliding and compact:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} has sliding layers, whose keys do not move with those of the others: "
            "use positions='keep'."
        )
    if checked_transfer(method, len(adapter.attentions)) is not None:
        raise BudgetError(
            f"{type(method).__name__} passes evicted entries to the text of the same prompt, which a stream would "
            "accumulate without bound: use compress()."
        )
