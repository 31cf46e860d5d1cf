"""Supported requests and responses of OpenAI's chat completions; anything else is refused."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Zero = Annotated[float, Field(ge=0, le=0)]
_LONGEST_URL = 1 << 27


class Strict(BaseModel):
    """A part of a request; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ImageLink(Strict):
    """URL of a picture."""

    url: str = Field(min_length=1, max_length=_LONGEST_URL)
    detail: Literal["auto"] = "auto"


class VideoLink(Strict):
    """URL of a video, and the part to read."""

    url: str = Field(min_length=1, max_length=_LONGEST_URL)
    fps: float | None = Field(None, gt=0, le=1000)
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, gt=0)


class TextPart(Strict):
    """A text in a message."""

    type: Literal["text"]
    text: str


class ImagePart(Strict):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageLink


class VideoPart(Strict):
    """A video in a message."""

    type: Literal["video_url"]
    video_url: VideoLink


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class UserMessage(Strict):
    """A message that may contain media."""

    role: Literal["user"]
    content: str | list[Part] = Field(min_length=1)


class TextMessage(Strict):
    """A message of text: instructions, or an earlier answer."""

    role: Literal["system", "developer", "assistant"]
    content: str | list[TextPart]
    refusal: None = None


Message = Annotated[UserMessage | TextMessage, Field(discriminator="role")]


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool = False


class TextFormat(Strict):
    """The only supported response format."""

    type: Literal["text"]


class ChatRequest(Strict):
    """A request for a chat completion; greedy unless a temperature above zero is given."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    logprobs: Literal[False] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None
    user: str | None = None

    @property
    def limit(self) -> int | None:
        """Requested maximum number of answer tokens."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or ()
        return tuple(filter(None, given))

    @property
    def links(self) -> list[ImageLink | VideoLink]:
        """Media of the messages, in order."""
        shown: list[ImageLink | VideoLink] = []
        for part in (part for message in self.messages for part in parts(message)):
            if isinstance(part, ImagePart):
                shown.append(part.image_url)
            elif isinstance(part, VideoPart):
                shown.append(part.video_url)
        return shown


def parts(message: UserMessage | TextMessage) -> list[TextPart | ImagePart | VideoPart]:
    """Return the content of a message as a list of parts."""
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return list(message.content)


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Return the number of tokens of a prompt, including visual ones, and of its answer."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(number: str, model: str, text: str, finish: str, used: dict[str, int]) -> dict[str, Any]:
    """Return the response to a request without streaming."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return _head(number, model, "chat.completion") | {"choices": [choice], "usage": used}


def chunk(number: str, model: str, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    """Return one piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return _head(number, model, "chat.completion.chunk") | {"choices": [choice]}


def usage_chunk(number: str, model: str, used: dict[str, int]) -> dict[str, Any]:
    """Return the last piece of a stream, with the usage."""
    return _head(number, model, "chat.completion.chunk") | {"choices": [], "usage": used}


def _head(number: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": number, "object": kind, "created": int(time.time()), "model": model}
