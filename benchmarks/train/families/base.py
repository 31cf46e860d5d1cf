"""Interface of a trainable model family."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..vision import PATCH

FRONT = "<|im_start|>user\n<|vision_start|>"
"""Text of a prompt before its video."""


class Family(ABC):
    """A model family: its classes, the text of its videos, its positions and its vision tower.

    Attributes:
        name: `config.model_type`.
        model_class, processor_class: names of classes in transformers.
        dtype: dtype of the published weights.
        written_times: whether the text of a video contains the times of its frames.
    """

    name: ClassVar[str]
    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    dtype: ClassVar[str]
    written_times: ClassVar[bool]

    @abstractmethod
    def config(self, tokens: dict[str, int], vocabulary: int) -> Any:
        """Make the model's configuration; `tokens` maps the names of special tokens to their ids."""

    @abstractmethod
    def processor(self, tokenizer: Any) -> Any:
        """Make a processor that does not resize 112 × 112 videos."""

    @abstractmethod
    def seconds(self, frames: int, dice: random.Random) -> tuple[float, ...]:
        """Draw the times of the frames of a batch."""

    @abstractmethod
    def video_text(self, seconds: Sequence[float]) -> str:
        """Write the prompt up to the end of its video, with one placeholder per visual token."""

    @abstractmethod
    def positions(self, visual: Tensor, used: Tensor, length: Tensor, dice: Tensor, conversation: bool) -> Tensor:
        """Compute positions `(3, B, S)`.

        Args:
            visual: whether each of the P tokens up to the end of the video is visual, (P,) bool.
            used: marks later tokens, as opposed to gaps between questions, (B, 1 + Q · L) bool.
            length: number of tokens of each question's prompt if asked alone, (B, Q).
            dice: random numbers in 0 … 1, (2, B): position of the answers, and spacing of the frames (0: one second).
            conversation: whether the questions are turns of one conversation.
        """

    @abstractmethod
    def see(self, visual: Any, patches: Tensor, rotation: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Run the vision tower on a batch of frames of patches `(N, 64, 1176)`.

        Returns:
            Visual tokens, and features to add to the outputs of the first text layers, each `(N, 16, hidden)`.
        """

    @abstractmethod
    def text_inputs(self, mask: Tensor, visual: Tensor, added: list[Tensor]) -> dict[str, Any]:
        """Return text model arguments for a mask `(1 or B, 1, Q · L, S)`, `visual` (B, S) and the features of `see`."""

    def readable(self, config: dict[str, Any]) -> dict[str, Any]:
        """Rewrite a saved configuration so that all supported versions of transformers read it.

        Leaves out the rotary settings of the vision tower, which only the newest version names.
        """
        vision = {key: value for key, value in config["vision_config"].items() if key != "rope_parameters"}
        return {**config, "vision_config": vision}

    def build(self, config: Any) -> Any:
        """Build a model with random weights."""
        return self._class(self.model_class)(config)

    def load(self, folder: Path, dtype: str = "float32") -> Any:
        """Load a model with weights in this dtype."""
        return self._class(self.model_class).from_pretrained(folder, dtype=getattr(torch, dtype))

    def _class(self, name: str) -> Any:
        import transformers

        return getattr(transformers, name)


def text_config(tokens: dict[str, int], vocabulary: int) -> dict[str, Any]:
    """Return the settings of the text model that all families share."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 32768,
        "initializer_range": 0.07,
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "bos_token_id": tokens["<|endoftext|>"],
        "eos_token_id": tokens["<|im_end|>"],
        "pad_token_id": tokens["<|endoftext|>"],
    }


def vision_config() -> dict[str, Any]:
    """Return the settings of the vision tower that all families share."""
    return {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 3,
        "out_hidden_size": 192,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": 0.07,
    }


def special_token_ids(tokens: dict[str, int]) -> dict[str, Any]:
    """Return the settings of the whole model that name its special tokens."""
    return {
        "image_token_id": tokens["<|image_pad|>"],
        "video_token_id": tokens["<|video_pad|>"],
        "vision_start_token_id": tokens["<|vision_start|>"],
        "vision_end_token_id": tokens["<|vision_end|>"],
    }
