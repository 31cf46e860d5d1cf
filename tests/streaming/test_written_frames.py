"""What a stream writes around its frames: token for token what the family's own processor writes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import transformers
from generation import model_of
from sessions import footage

from kvpress_video.compressor.entries import Kind
from kvpress_video.models import adapter_for
from kvpress_video.streaming.conversation import Conversation

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="families of transformers 5")

RATE = 4.0
IMAGES = ("internvl", "smolvlm", "gemma3")  # whose frames are images to the model
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<video>\n{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(own: Any, **special: str) -> Any:
    """The bundled tokenizer with further special tokens, under the names that a processor asks for."""
    tokenizer = deepcopy(own.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special.values())})
    for name, token in special.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _qwen3_vl(own: Any) -> Any:
    size = {"shortest_edge": 32 * 32, "longest_edge": 10**6}
    videos = transformers.Qwen3VLVideoProcessor(size=size, patch_size=16)
    template = own.chat_template
    return transformers.Qwen3VLProcessor(own.image_processor, own.tokenizer, videos, chat_template=template)


def _internvl(own: Any) -> Any:
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    videos = transformers.InternVLVideoProcessor(size={"height": 24, "width": 24})
    images = transformers.GotOcr2ImageProcessor()
    return transformers.InternVLProcessor(
        images, _tokenizer(own, **tokens, video_token="<video>"), videos, image_seq_length=9, chat_template=_TEMPLATE
    )


def _video_llama_3(own: Any) -> Any:
    size = {"shortest_edge": 28 * 28, "longest_edge": 64 * 96}  # of one frame in a stream, of all in a prompt
    videos = transformers.VideoLlama3VideoProcessor(size=size)
    images = transformers.VideoLlama3ImageProcessor()
    tokens = {"image_token": "<image>", "video_token": "<video>"}
    return transformers.VideoLlama3Processor(images, _tokenizer(own, **tokens), videos, chat_template=_TEMPLATE)


def _smolvlm(own: Any) -> Any:
    tokens = {"fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"}
    tokens |= {"end_of_utterance_token": "<end_of_utterance>", "image_token": "<image>", "video_token": "<video>"}
    edges = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
    videos = transformers.SmolVLMVideoProcessor(**edges)
    images = transformers.SmolVLMImageProcessor(**edges)
    template = transformers.models.smolvlm.processing_smolvlm.DEFAULT_CHAT_TEMPLATE
    tokenizer = _tokenizer(own, **tokens)
    return transformers.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=template)


def _gemma3(own: Any) -> Any:
    tokens = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    images = transformers.Gemma3ImageProcessor(size={"height": 24, "width": 24})
    template = _TEMPLATE.replace("<video>\n", "<start_of_image>")
    return transformers.Gemma3Processor(images, _tokenizer(own, **tokens), template, image_seq_length=9)


PROCESSORS: dict[str, Callable[[Any], Any]] = {
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "video_llama_3": _video_llama_3,
    "smolvlm": _smolvlm,
    "qwen3_5": _qwen3_vl,
    "gemma3": _gemma3,
}


@pytest.fixture(autouse=True)
def without_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM's processor, without the package that spells numbers and with an intro that has none."""
    module = transformers.models.smolvlm.processing_smolvlm
    monkeypatch.setattr(module, "num2words", str)
    intro = "You are provided the following series of frames from a video.\n"
    monkeypatch.setattr(module, "DEFAULT_VIDEO_INTRO", intro)


@pytest.mark.parametrize("frames", [2, 7, 12])
@pytest.mark.parametrize("family", PROCESSORS)
def test_the_family_s_own_processor_writes_the_same(family: str, frames: int, bundled: tuple[Any, Any]) -> None:
    made, video = PROCESSORS[family](bundled[1]), _moving(frames)
    shown = [{"type": "image"}] * frames if family == "gemma3" else [{"type": "video"}]
    messages = [{"role": "user", "content": [*shown, {"type": "text", "text": "what is it?"}]}]
    given = made(
        text=[made.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)],
        **_media(family, made, video),
        return_tensors="pt",
    )
    adapter = adapter_for(model_of(family))
    conversation = Conversation(made, None, adapter)
    seconds = adapter.step_seconds([number / RATE for number in range(frames)])
    special = made.tokenizer if family == "gemma3" else made
    placeholder = special.image_token_id if family in IMAGES else special.video_token_id
    patches = iter(_patches(family, made, adapter, video))
    half = len(seconds) // 2
    written: list[int] = []
    for first, part in ((0, seconds[:half]), (half, seconds[half:])) if half else ((0, seconds),):
        before, labels = conversation.frames(part, first)
        written += before
        for label in labels:
            written += [*label.opens, *[placeholder] * next(patches), *label.closes]
        conversation.watched(before, 0)
    assert written + conversation.question("what is it?").ids == given["input_ids"][0].tolist()


@pytest.mark.parametrize("family", [family for family in PROCESSORS if family != "gemma3"])
def test_however_many_frames_come_each_is_of_one_size(family: str, bundled: tuple[Any, Any]) -> None:
    """Also one alone, and where a processor's limits are those of a whole video."""
    made, adapter = PROCESSORS[family](bundled[1]), adapter_for(model_of(family))
    if hasattr(made.video_processor, "merge_size"):
        made.video_processor.size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64 * adapter.frames_per_step}
    grids = set()
    for count in (1, 2, 3, 12):
        parts = adapter.unpack(Kind.VIDEO, adapter.frame_inputs(made, list(_moving(count))))
        assert parts is not None
        assert sum(part.grid.frames for part in parts) == -(-count // adapter.frames_per_step)
        grids |= {part.grid[1:] for part in parts}
    assert len(grids) == 1


def _moving(count: int) -> Any:
    """Frames of 64×96 pixels in which half of the picture stands still."""
    frames = footage(count, 64, 96)
    frames[:, :, :48] = frames[0, :, :48]
    return frames


def _media(family: str, processor: Any, video: Any) -> dict[str, Any]:
    """Arguments of a processor for all frames at once."""
    if family == "gemma3":
        return {"images": [list(video)]}
    numbers = list(range(len(video)))
    metadata = {"fps": RATE, "total_num_frames": len(video), "frames_indices": numbers}
    videos = [[video]] if family == "smolvlm" else [video]  # of each prompt
    found = {"videos": videos, "video_metadata": [metadata], "do_sample_frames": False}
    if family == "video_llama_3":
        found["size"] = dict(processor.video_processor.size) | {"longest_edge": 64 * 96 * len(video)}
    return found


def _patches(family: str, processor: Any, adapter: Any, video: Any) -> list[int]:
    """Visual tokens of each temporal step of frames that are prepared for a stream."""
    inputs = adapter.frame_inputs(processor, list(video))
    if family.startswith("qwen3"):
        steps, rows, columns = inputs["video_grid_thw"][0].tolist()
        return [rows * columns // 4] * steps
    if family == "video_llama_3":
        shown = inputs["video_compression_mask"].unflatten(0, (len(video), -1)).sum(1).tolist()
        assert shown[0] > shown[1]
        return shown
    return [4 if family == "smolvlm" else 9] * len(video)
