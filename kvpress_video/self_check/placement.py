"""Check of where pixels enter the text model: at placeholder tokens, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.general import General
from ..utils.method_patch import replaced
from .prompts import PromptMaker
from .trials import Disagreement, generated


@torch.no_grad()
def check_placement(adapter: General, maker: PromptMaker) -> None:
    """Compare the tokens that change with the pixels with the placeholder tokens.

    Raises:
        Disagreement: other tokens change, or none.
    """
    prompt, other = maker.prompt(seed=0), maker.prompt(seed=1)
    pixels = {name: other[name] for name in maker.arguments}
    (first, read), (second, _) = (_entering(adapter, inputs) for inputs in (prompt, prompt | pixels))
    changed = (first != second).any(dim=-1)
    if not read and not changed.any():
        raise Disagreement(
            f"its generate() never encodes the pixels: its prepare_inputs_for_generation(), in the first step, where "
            f"the cache is empty but not None, and its forward() must pass {', '.join(pixels)} on"
        )
    placeholders = (prompt["input_ids"] == maker.placeholder).to(changed.device)
    wrong = int((changed & ~placeholders).sum())
    if wrong or not changed.any():
        raise Disagreement(
            f"its pixels change {int(changed.sum())} embeddings, of which {wrong} are not at a placeholder token "
            f"(token id {maker.placeholder})"
        )


def _entering(adapter: General, inputs: Mapping[str, Tensor]) -> tuple[Tensor, bool]:
    """Return the embeddings and deepstack features that the text model receives, (batch, n, width), and whether the
    model encoded its pixels.
    """
    seen: list[Tensor] = []
    encoders: set[str] = set()

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        parts = [kwargs["inputs_embeds"], adapter.take_aligned(kwargs)]
        seen.append(torch.cat([part.float() for part in parts if part is not None], dim=-1))

    def noting(name: str, encode: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            encoders.add(name)
            return encode(*args, **kwargs)

        return call

    with ExitStack() as undo:
        undo.callback(adapter.text_model.register_forward_pre_hook(note, with_kwargs=True).remove)
        for kind in adapter.placeholders:
            name = adapter.encoders[kind]
            undo.enter_context(replaced(adapter.inner, name, partial(noting, name)))
        generated(adapter.model, inputs, inputs["input_ids"][:, :1])
    return seen[0], bool(encoders)
