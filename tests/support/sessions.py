"""What sessions are tested with: frames, processors for the tiny models without a tokenizer file, and what is seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import model_of
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature

import kvpress_video as kv
from kvpress_video.cache.uncompressed import states

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
    boi_token, eoi_token = "<|start|>", "<|end|>"
    eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = [_WORDS.get(word) or ord(word) for word in _SPLIT.findall(text)]
        return {"input_ids": [zoo.BOS, *words] if add_special_tokens else words}

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        said = [int(token) for token in ids if int(token) not in self.all_special_ids]
        return "".join(chr(token) if token < 127 else chr(0x400 + token) for token in said)


class TinyVideoProcessor:
    """Pixels of frames as they are, in the form of a family's own video processor."""

    def __init__(self, family: str) -> None:
        self.size = {"shortest_edge": 1, "longest_edge": 10**6}
        self._inputs = {"video_llama_3": self._thinned, "smolvlm": self._masked}.get(
            family, self._patches if "qwen" in family else self._stack
        )

    def __call__(
        self, videos: list[Images], do_sample_frames: bool, return_tensors: str, size: Any = None
    ) -> BatchFeature:
        assert not do_sample_frames
        assert return_tensors == "pt"
        return BatchFeature(self._inputs(_normal(videos[0])))

    def _patches(self, pixels: Tensor, step: int = 2) -> dict[str, Tensor]:
        merge, side = zoo.MERGE, zoo.PATCH
        pixels = torch.cat([pixels, pixels[-1:]]) if len(pixels) % step else pixels
        steps, rows, columns = len(pixels) // step, pixels.shape[1] // side, pixels.shape[2] // side
        cut = pixels.reshape(steps, step, rows // merge, merge, side, columns // merge, merge, side, 3)
        ordered = cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(steps * rows * columns, -1)
        return {"pixel_values_videos": ordered, "video_grid_thw": torch.tensor([[steps, rows, columns]])}

    def _thinned(self, pixels: Tensor) -> dict[str, Tensor]:
        """Some tokens of a frame, never its first one, are left out: those of dark patches."""
        found = self._patches(pixels, step=1)
        tokens = found["pixel_values_videos"].unflatten(0, (len(pixels), -1, zoo.MERGE**2)).mean(dim=(2, 3))
        shown = tokens > -0.02
        shown[:, 0] = True
        merges = torch.tensor([zoo.MERGE])
        return found | {"video_merge_sizes": merges, "video_compression_mask": shown.flatten()}

    def _stack(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"pixel_values_videos": pixels.permute(0, 3, 1, 2)[None]}

    def _masked(self, pixels: Tensor) -> dict[str, Tensor]:
        mask = torch.ones(1, *pixels.shape[:3], dtype=torch.long)
        return {"pixel_values": pixels.permute(0, 3, 1, 2)[None], "pixel_attention_mask": mask}


class TinyProcessor:
    """The processor of a tiny model: its chat template, its special tokens, and its video processor."""

    video_token = "<|video|>"
    vision_start_token, vision_end_token = start_image_token, end_image_token = "<|start|>", "<|end|>"
    fake_image_token, global_image_token = "<|end|>", "<|start|>"
    boi_token = "<|start|>"

    def __init__(self, family: str) -> None:
        self.tokenizer = TinyTokenizer()
        self.placeholder = self.boi_token if family == "gemma3" else self.video_token
        self._wraps = ("<|start|>", "<|end|>") if "qwen" in family else ("", "" if family == "gemma3" else "\n")
        self.video_processor = TinyVideoProcessor(family)

    def image_processor(self, images: list[Images], do_pan_and_scan: bool, return_tensors: str) -> BatchFeature:
        assert not do_pan_and_scan
        assert return_tensors == "pt"
        return BatchFeature({"pixel_values": _normal(np.stack(images)).permute(0, 3, 1, 2)})

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool, tokenize: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        video = f"{self._wraps[0]}{self.placeholder}{self._wraps[1]}"
        said = ""
        for message in messages:
            parts = [part["text"] if part["type"] == "text" else video for part in message["content"]]
            said += f"<|im_start|>{message['role']}\n{''.join(parts)}<|im_end|>\n"
        return said + "<|im_start|>assistant\n"


def _normal(frames: Images) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1


QWEN = zoo.FAMILIES[0]
_STREAMED = ("qwen2_5_vl", "qwen2_vl", "llava_next_video", "llava_onevision", "qwen3_vl", "qwen3_vl_moe")
_STREAMED += ("internvl", "video_llama_3", "smolvlm", "qwen3_5", "qwen3_5_moe", "gemma3")
STREAMED = [family for family in _STREAMED if family in zoo.FAMILIES]
LABELS = [family for family in STREAMED if family in zoo.LABELLED]
UNMOVED = ("gemma3",)  # whose positions cannot be compacted


def _param(family: str, *more: Any) -> Any:
    """A mixture of experts differs from its dense family in nothing that a session does."""
    return pytest.param(family, *more, marks=pytest.mark.slow if family.endswith("moe") else ())


PER_FAMILY = [_param(family) for family in STREAMED]
PLACED = [_param(family, "keep") for family in STREAMED]
PLACED += [_param(family, "compact") for family in STREAMED if family not in UNMOVED]
ATTENTIVE = [family for family in STREAMED if not family.startswith(("qwen3_5", "gemma3"))]
"""Families all of whose layers are compressed: windows and recurrent states keep what turns that leave left in them."""
SIDES = {"llava_next_video": 24, "llava_onevision": 20, "internvl": 24, "smolvlm": 24, "gemma3": 24}


def spelled(family: str, times: Sequence[float], first: int) -> list[tuple[str, str]]:
    """What the processor of a family writes before and after each temporal step of a video that begins with the step of
    this ordinal."""
    if family.startswith("qwen3"):
        pairs = [times[start : start + 2] for start in range(0, len(times), 2)]
        return [(f"<{(pair[0] + pair[-1]) / 2:.1f} seconds><|start|>", "<|end|>") for pair in pairs]
    if family == "internvl":
        lines = ["", *["\n"] * len(times)]
        return [(f"{lines[n]}Frame{first + n + 1}: <|start|>", "<|end|>") for n in range(len(times))]
    if family == "video_llama_3":
        return [(f"{',' if number else ''}Time {time:.1f}s:", "") for number, time in enumerate(times)]
    if family == "gemma3":
        lines, ends = ["\n\n", *["\n\n\n\n"] * len(times)], [*[""] * (len(times) - 1), "\n\n"]
        return [(f"{lines[n]}<|start|>", f"<|end|>{ends[n]}") for n in range(len(times))]
    assert family == "smolvlm"
    intro = ["You are provided the following series of frames from a video.\n", *[""] * len(times)]
    ends = [*[""] * (len(times) - 1), "\n\n"]
    return [
        (f"{intro[n]}\nFrame from {int(time) // 60:02d}:{int(time) % 60:02d}:<|end|><|start|>", f"<|end|>{ends[n]}")
        for n, time in enumerate(times)
    ]


def tiny(method: Any = "infinipot-v", budget: Any = 30, family: str = QWEN, **options: Any) -> kv.VideoSession:
    """A session on a tiny random model: frames of 16×16 pixels make four visual tokens in Qwen, two frames a step."""
    if family in UNMOVED:
        options |= {"positions": "keep", "position_limit": 10**8}
    return kv.VideoSession(model_of(family), TinyProcessor(family), method, budget, **options)


def frames_for(family: str, count: int, seed: int = 0) -> Any:
    return footage(count, SIDES.get(family, 16), SIDES.get(family, 16), seed)


def cache_of(session: kv.VideoSession) -> list[Tensor]:
    """Everything that the cache holds, copied."""
    parts = [(layer.keys, layer.values, layer.tags, layer.places) for layer in session.stream.layers if layer.physical]
    return [part.clone() for layer in (*parts, states(session.stream.cache).values()) for part in layer]


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
    """Observable behaviour of a session from now on."""
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


def check_failed_answer(session: kv.VideoSession, question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that fails leaves the cache as it was."""
    before = cache_of(session)

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("full")

    monkeypatch.setattr(session.stream, "generate", fails)
    with pytest.raises(RuntimeError, match="full"):
        session.ask(question)
    check_same(cache_of(session), before)
