"""A Qwen2.5-VL server that knows nothing of this package: FastAPI, its thread pool, the stock `generate()`.

    python -m kvpress_video.benchmarks.serving.server MODEL
    python -m kvpress_video.benchmarks.serving.server MODEL --patch infinipot-v 6144

`--patch` adds one line in `main`. Videos are given as a path, a `file://` or a `data:` URL. Requests run concurrently;
stock transformers 4.57 mixes up their positions unless the model is patched.
"""

from __future__ import annotations

import argparse
import base64
import tempfile
import time
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from torch import Tensor

FPS = 2


class Link(BaseModel):
    """The location of a video."""

    url: str


class Part(BaseModel):
    """A piece of a message."""

    type: Literal["text", "video_url"]
    text: str = ""
    video_url: Link | None = None


class Message(BaseModel):
    """One turn in the format of OpenAI's API."""

    role: str
    content: str | list[Part]

    @property
    def parts(self) -> list[Part]:
        """The content as a list of parts."""
        return [Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class Request(BaseModel):
    """A chat completion request."""

    messages: list[Message]
    max_tokens: int = 64


class Server:
    """A model, its processor, and the size of the latest request's cache."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.stats = {"requests": 0, "prompt_tokens": 0, "cache_bytes": 0}

    def inputs(self, messages: list[Message]) -> Any:
        """Make the inputs of `generate()` for a conversation."""
        from transformers.video_utils import load_video

        parts = [part for message in messages for part in message.parts]
        with tempfile.TemporaryDirectory() as folder:
            links = [part.video_url.url for part in parts if part.video_url is not None]
            files: list[Any] = [_file(link, folder) for link in links]
            loaded = [load_video(file, fps=FPS, backend="pyav") for file in files]
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
    """Bytes of the keys and values in a cache."""
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


def _placed(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part.text} if part.video_url is None else {"type": "video"}


def _file(link: str, folder: str) -> str:
    """Return the path of a video, after writing the content of a `data:` URL to the folder."""
    if link.startswith("data:"):
        file = Path(tempfile.mkstemp(dir=folder)[1])
        file.write_bytes(base64.b64decode(link.partition(",")[2]))
        return str(file)
    return unquote(urlparse(link).path) if link.startswith("file:") else link


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
