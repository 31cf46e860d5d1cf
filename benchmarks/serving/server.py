"""A Qwen2.5-VL server independent of this package: FastAPI, its thread pool, the stock `generate()`.

    python -m kvpress_video.benchmarks.serving.server MODEL
    python -m kvpress_video.benchmarks.serving.server MODEL --patch infinipot-v 6144

`--patch` adds one line in `main`. Videos are given as a path, a `file://` or a `data:` URL; nothing is fetched.
Requests run concurrently; stock transformers 4.57 mixes up their positions unless the model is patched.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlparse

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from torch import Tensor

FPS = 2


class Link(BaseModel):
    """The location of a video."""

    url: str = Field(min_length=1)


class Text(BaseModel):
    """A text in a message."""

    type: Literal["text"]
    text: str


class Video(BaseModel):
    """A video in a message."""

    type: Literal["video_url"]
    video_url: Link


class Message(BaseModel):
    """One turn in the format of OpenAI's API."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Annotated[Text | Video, Field(discriminator="type")]]

    @property
    def parts(self) -> list[Text | Video]:
        """The content as a list of parts."""
        return [Text(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class Request(BaseModel):
    """A chat completion request."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int = Field(64, ge=1, le=4096)


class Server:
    """A model, its processor, and the size of the latest request's cache."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.stats = {"requests": 0, "prompt_tokens": 0, "cache_bytes": 0}

    def inputs(self, messages: list[Message]) -> Any:
        """Make the inputs of `generate()` for a conversation.

        Raises:
            HTTPException: a video cannot be read.
        """
        parts = [part for message in messages for part in message.parts]
        loaded = [_load(part.video_url.url) for part in parts if isinstance(part, Video)]
        turns = [{"role": message.role, "content": [_placed(part) for part in message.parts]} for message in messages]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        videos: dict[str, Any] = {}
        if loaded:
            videos = {"videos": [frames for frames, _ in loaded], "video_metadata": [about for _, about in loaded]}
            videos["do_sample_frames"] = False
        return self.processor(text=[text], return_tensors="pt", **videos).to(self.model.device)

    def complete(self, request: Request) -> dict[str, Any]:
        """Answer a request."""
        inputs = self.inputs(request.messages)
        output = self.model.generate(**inputs, max_new_tokens=request.max_tokens, return_dict_in_generate=True)
        prompt = inputs["input_ids"].shape[1]
        reply = output.sequences[0, prompt:]
        self.stats = {
            "requests": self.stats["requests"] + 1,
            "prompt_tokens": prompt,
            "cache_bytes": cache_bytes(output.past_key_values),
        }
        text = self.processor.tokenizer.decode(reply, skip_special_tokens=True).strip()
        return {
            "object": "chat.completion",
            "created": int(time.time()),
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": len(reply)},
        }


def cache_bytes(cache: Any) -> int:
    """Return the bytes of the keys and values in a cache."""
    held: list[Tensor] = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    return sum(part.numel() * part.element_size() for part in held)


def make_app(server: Server) -> FastAPI:
    """Make the HTTP application: `POST /v1/chat/completions` and `GET /stats`."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    def complete(request: Request) -> dict[str, Any]:
        return server.complete(request)

    @app.get("/stats")
    def stats() -> dict[str, int]:
        return server.stats

    return app


def _placed(part: Text | Video) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "video"}


def _load(link: str) -> Any:
    """Read the frames of a video and their metadata.

    Raises:
        HTTPException: the video does not exist or cannot be read.
    """
    from transformers.video_utils import load_video

    with tempfile.TemporaryDirectory() as folder:
        file: Any = str(_file(link, Path(folder)))
        try:
            return load_video(file, fps=FPS, backend="pyav")
        except Exception as error:  # decoders may raise any exception
            raise HTTPException(400, f"The video {link:.80} cannot be read: {error}") from error


def _file(link: str, folder: Path) -> Path:
    """Find the file of a video; the content of a `data:` URL is written to the folder.

    Raises:
        HTTPException: the link is another URL, broken, or leads to no file.
    """
    scheme, _, rest = link.partition(":")
    if scheme == "data":
        return _written(rest, folder / "video")
    if "://" in link and scheme != "file":
        raise HTTPException(400, f"{link:.80} is not fetched: send a file:// or data: URL.")
    path = Path(unquote(urlparse(link).path) if scheme == "file" else link)
    if "\0" in link or not path.is_file():
        raise HTTPException(400, f"There is no video {link:.80}.")
    return path


def _written(data: str, path: Path) -> Path:
    head, _, content = data.partition(",")
    try:
        path.write_bytes(base64.b64decode(content, validate=True))
    except binascii.Error as error:
        raise HTTPException(400, f"The data: URL of a video is not in base64: {error}.") from error
    if not head.endswith(";base64") or not content:
        raise HTTPException(400, f"A data: URL of a video is data:video/…;base64,…, not data:{head:.80},…")
    return path


def main() -> None:
    """Load the model and serve it."""
    parser = argparse.ArgumentParser(description="Serve a Qwen2.5-VL over HTTP.")
    parser.add_argument("model", help="folder or hub name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--patch", nargs=2, metavar=("METHOD", "BUDGET"), help="compress the cache")
    options = parser.parse_args()
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(options.model, dtype="auto").to(options.device).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    if options.patch:
        import kvpress_video as kv

        kv.patch(model, *options.patch)
    uvicorn.run(make_app(Server(model, processor)), port=options.port)


if __name__ == "__main__":
    main()
