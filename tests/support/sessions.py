"""What sessions are tested with: frames, processors for the tiny models without a tokenizer file, and what is seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import zoo
from generation import model_of
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature

import kvpress_video as kv

Images = NDArray[np.uint8]

_WORDS = {"\n": 200, "<|im_start|>": 201, "<|im_end|>": 202, "<|start|>": zoo.VISION_START, "<|end|>": zoo.VISION_END}
_WORDS |= {"<|video|>": zoo.VIDEO}
_SPLIT = re.compile(r"<\|\w+\|>|.|\n")


def footage(count: int, height: int = 16, width: int = 16, seed: int = 0) -> Images:
    """Random frames (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


class TinyTokenizer:
    """One token a letter; what a tiny model says beyond them are letters of another alphabet."""

    all_special_ids = (zoo.PAD, zoo.BOS, 202, *range(248, 252))
    pad_token_id = zoo.PAD
    eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = [_WORDS.get(word) or ord(word) for word in _SPLIT.findall(text)]
        return {"input_ids": [zoo.BOS, *words] if add_special_tokens else words}

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        said = [int(token) for token in ids if int(token) not in self.all_special_ids]
        return "".join(chr(token) if token < 127 else chr(0x400 + token) for token in said)


class TinyProcessor:
    """The processor of a tiny model: its chat template, and pixels of frames as they are."""

    video_token = "<|video|>"
    vision_start_token, vision_end_token = "<|start|>", "<|end|>"

    def __init__(self, family: str) -> None:
        self.tokenizer = TinyTokenizer()
        self._wraps = "qwen" in family
        self.video_processor = self._patches if self._wraps else self._stack

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool, tokenize: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        video = f"<|start|>{self.video_token}<|end|>" if self._wraps else f"{self.video_token}\n"
        said = ""
        for message in messages:
            parts = [video if part["type"] == "video" else part["text"] for part in message["content"]]
            said += f"<|im_start|>{message['role']}\n{''.join(parts)}<|im_end|>\n"
        return said + "<|im_start|>assistant\n"

    def _patches(self, videos: list[Images], do_sample_frames: bool, return_tensors: str) -> BatchFeature:
        (frames,), merge, side = videos, zoo.MERGE, zoo.PATCH
        pixels = _normal(frames)
        pixels = torch.cat([pixels, pixels[-1:]]) if len(pixels) % 2 else pixels
        steps, rows, columns = len(pixels) // 2, pixels.shape[1] // side, pixels.shape[2] // side
        cut = pixels.reshape(steps, 2, rows // merge, merge, side, columns // merge, merge, side, 3)
        ordered = cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(steps * rows * columns, -1)
        grid = torch.tensor([[steps, rows, columns]])
        return BatchFeature({"pixel_values_videos": ordered, "video_grid_thw": grid})

    def _stack(self, videos: list[Images], do_sample_frames: bool, return_tensors: str) -> BatchFeature:
        return BatchFeature({"pixel_values_videos": _normal(videos[0]).permute(0, 3, 1, 2)[None]})


def _normal(frames: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1


QWEN = zoo.FAMILIES[0]
STREAMED = [
    family
    for family in ("qwen2_5_vl", "qwen2_vl", "llava_next_video", "qwen3_vl", "qwen3_vl_moe")
    if family in zoo.FAMILIES
]
SIDES = {"llava_next_video": 24, "llava_onevision": 20}


def tiny(method: Any = "infinipot-v", budget: Any = 30, family: str = QWEN, **options: Any) -> kv.VideoSession:
    """A session on a tiny random model: frames of 16×16 pixels make four visual tokens in Qwen, two frames a step."""
    return kv.VideoSession(model_of(family), TinyProcessor(family), method, budget, **options)


def frames_for(family: str, count: int, seed: int = 0) -> Any:
    return footage(count, SIDES.get(family, 16), SIDES.get(family, 16), seed)


def cache_of(session: kv.VideoSession) -> list[Tensor]:
    """Everything that the cache holds, copied."""
    parts = [(layer.keys, layer.values, layer.tags, layer.places) for layer in session.stream.layers if layer.physical]
    return [part.clone() for layer in parts for part in layer]


def differing(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[int]:
    """Which tensors are not equal to the bit; importance that was not captured is no number."""
    assert len(found) == len(wanted)
    pairs = zip(found, wanted, strict=True)
    return [number for number, pair in enumerate(pairs) if not torch.equal(*(each.nan_to_num(-7.25) for each in pair))]


def check_same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert differing(found, wanted) == []


class Notes:
    """A logits processor that notes the logits of each token of an answer."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.logits.append(scores[0].clone())
        return scores

    @property
    def reply(self) -> list[int]:
        return [int(each.argmax()) for each in self.logits]


def ask(session: kv.VideoSession, question: str, **options: Any) -> Notes:
    notes = Notes()
    session.ask(question, logits_processor=[notes], **({"max_new_tokens": 4} | options))
    return notes


def usage_of(session: kv.VideoSession) -> list[Any]:
    """What can be seen of a session from now on."""
    session.push(footage(9, seed=5))
    notes = ask(session, "And now?", max_new_tokens=6)
    return [*cache_of(session), *notes.logits]


OPTIONS: list[tuple[Any, Any, dict[str, Any]]] = [
    ("infinipot-v", 30, {}),
    ("infinipot-v", 30, {"positions": "keep"}),
    ("random", "250001B", {"text_room": 60}),
    ("full", None, {"chunk": 8}),
    ("snapkv", 30, {"window": 4}),
    ("average-pooling", 30, {"position_limit": 160}),
]
