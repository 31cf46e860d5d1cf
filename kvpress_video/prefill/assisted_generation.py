"""Assisted generation (a draft model or prompt lookup) after a compressed prompt."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedModelError

Candidates = tuple[Tensor, Tensor | None]


def checked_guesses(placeholders: Collection[int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a wrapper of a model's `_get_candidate_generator` that keeps greedy answers unchanged.

    The pass of the prompt gets no candidates: methods compress at its end and read its last tokens. Later candidates
        end before the first placeholder of a visual token.

    Args:
        placeholders: ids of the placeholder tokens.

    Raises:
        UnsupportedModelError: the model is its own draft (`assistant_early_exit`).
    """

    def wrap(make: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if kwargs["generation_config"].assistant_early_exit is not None:
                raise UnsupportedModelError(
                    "assistant_early_exit runs some layers of the compressed model alone, which cannot be followed: "
                    "pass an assistant_model, or prompt_lookup_num_tokens."
                )
            generator = make(*args, **kwargs)
            generator.get_candidates = _after_the_prompt(generator.get_candidates, placeholders)
            return generator

        return run

    return wrap


def _after_the_prompt(guess: Callable[..., Candidates], placeholders: Collection[int]) -> Callable[..., Candidates]:
    prompt = True

    def get_candidates(input_ids: Tensor, **kwargs: Any) -> Candidates:
        nonlocal prompt
        length = input_ids.shape[1]
        guessed, logits = guess(input_ids, **kwargs)
        usable = 0
        if not prompt:
            visual = torch.isin(guessed[0, length:], torch.tensor([*placeholders], device=guessed.device))
            usable = int((visual.cumsum(dim=0) == 0).sum())
        prompt = False
        return guessed[:, : length + usable], logits[:, :usable] if logits is not None and usable else None

    return get_candidates
