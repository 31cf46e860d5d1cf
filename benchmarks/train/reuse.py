"""Initialise a model of one world with the weights of a model of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from .families import FAMILIES


def reuse(model: Any, tokenizer: Any, folder: Path) -> list[str]:
    """Copy weights with equal name and shape, and the embeddings of the words in both vocabularies.

    Args:
        model: model of the same family, modified in place.
        tokenizer: tokenizer of `model`.
        folder: folder of the other model with its `tokenizer.json`.

    Returns:
        Names of the parameters that keep their initial values.

    Raises:
        ValueError: the models are of different families.
    """
    former = FAMILIES[model.config.model_type].load(folder)
    if former.config.model_type != model.config.model_type:
        raise ValueError(f"{folder} holds a {former.config.model_type}, not a {model.config.model_type}")
    known = former.state_dict()
    tables = {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    kept = []
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if name in tables:
                continue
            if name in known and known[name].shape == weight.shape:
                weight.copy_(known[name])
            else:
                kept.append(name)
    copy_words(model, former, tokenizer.get_vocab(), Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab())
    return kept


@torch.no_grad()
def copy_words(new: Any, old: Any, tokens: dict[str, int], former: dict[str, int]) -> None:
    """Copy embeddings and output rows of the tokens in both vocabularies, `tokens` and `former`."""
    for target, source in ((new.get_input_embeddings(), old.get_input_embeddings()), (new.lm_head, old.lm_head)):
        for token, row in tokens.items():
            if token in former:
                target.weight[row] = source.weight[former[token]]
