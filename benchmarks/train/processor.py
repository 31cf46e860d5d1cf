"""Tokenizer and processor of a family, with a small vocabulary."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ..world.shapes import COLUMNS, ROWS
from .families import Family
from .words import WORDS
from .worlds import TrainingWorld

VOCABULARY = 1024
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pattern by which Qwen2's tokenizer splits text into words before it merges bytes."""


def build_processor(family: Family, world: TrainingWorld, folder: Path) -> Any:
    """Make the processor of a family with the vocabulary of a world, and write its files to `folder`."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokenizer.json"
        _trained_tokenizer(world).save(str(file))
        model = json.loads(file.read_text())["model"]
        (Path(scratch) / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (Path(scratch) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        tokenizer: Any = getattr(transformers, "Qwen2TokenizerFast").from_pretrained(  # noqa: B009  (no stub names it)
            scratch, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, model_max_length=32768
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    processor = family.processor(tokenizer)
    processor.save_pretrained(folder)
    return processor


def _trained_tokenizer(world: TrainingWorld) -> Any:
    """Train a byte-level BPE tokenizer in which every word of a world's questions and answers is one token."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    asked = [world.text(text, name) for text in world.templates for name in world.names]
    words = [answer for answer in world.answers if " " not in answer]
    starts = [*world.answers, *words, *ROWS, *COLUMNS, "user", "assistant", "system"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*(asked + starts) * 50, *(f" {word}" for word in WORDS.split())], trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer
