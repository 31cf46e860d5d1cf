"""The lmms-eval chat model `kvpress_video` (0.6 or newer), registered in the entry-point group `lmms_eval.models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import KVPressVideoError, VideoError
from ..utils.questions import check_question
from ..video.prompt import video_part
from .answering import Answerer, Request
from .footage import File, Footage, footage
from .generation import Generation
from .options import Options, with_flags

try:
    from lmms_eval.api.model import lmms
except ImportError as error:
    raise KVPressVideoError(f"This needs lmms-eval ({error}): pip install 'lmms-eval>=0.6'.") from error

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the model's entry for lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("kvpress_video", chat_class_path=f"{__name__}.KVPressVideoChat", aliases=("kvpress-video",))


class KVPressVideoChat(lmms):
    """Answers `generate_until` requests whose messages hold one video."""

    is_simple = False

    def __init__(self, **arguments: Any) -> None:
        """Load the model.

        Args:
            **arguments: the fields of `Options`, and settings of the method.

        Raises:
            UnknownNameError: an argument, method, model or setting does not exist.
            BudgetError: the budget is missing or cannot be read.
            UnsupportedModelError: the model cannot be compressed.
        """
        super().__init__()
        self._answerer = Answerer(Options.read(arguments))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> KVPressVideoChat:
        """Make the model from `"key=value,…"` and lmms-eval's own flags."""
        from lmms_eval.utils import simple_parse_args_string

        return cls(**with_flags(simple_parse_args_string(arg_string), additional_config))

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer requests, in their order.

        Raises:
            VideoError: a request has no video, several, images, or a video that cannot be read.
            KVPressVideoError: a request asks for decoding that is not greedy.
        """
        answers = [""] * len(requests)
        for place, answer in self._answerer.answer([self._request(request) for request in requests]):
            answers[place] = answer
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Reject likelihood requests.

        Raises:
            KVPressVideoError: always.
        """
        raise KVPressVideoError("kvpress_video has no likelihoods: choose tasks whose output_type is generate_until.")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Reject requests of several rounds.

        Raises:
            KVPressVideoError: always.
        """
        raise KVPressVideoError("kvpress_video answers in one round: choose tasks whose output_type is generate_until.")

    def _request(self, request: Instance) -> Request:
        _, doc_to_messages, generation, document, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][document])
        turns = [{"role": message["role"], "content": _parts(message["content"])} for message in messages]
        videos = [part for turn in turns for part in turn["content"] if part["type"] == "video"]
        if len(videos) != 1:
            raise VideoError(f"A question is about one video, and {task} has one about {len(videos)}.")
        processor = self._answerer.processor
        prompt = processor.apply_chat_template(
            [{**turn, "content": [_placeholder(part, processor) for part in turn["content"]]} for turn in turns],
            add_generation_prompt=True,
            tokenize=False,
        )
        return Request(_footage(videos[0]), prompt, Generation.read(generation, self._answerer.options.max_new_tokens))


def _parts(content: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the parts of a message; a plain string is one text part.

    Raises:
        VideoError: a part is neither text nor video.
    """
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]
    for part in parts:
        if part["type"] not in ("text", "video"):
            raise VideoError(
                f"kvpress_video supports text and one video, and the task has a part of type {part['type']!r}."
            )
    return parts


def _placeholder(part: Mapping[str, Any], processor: Any) -> dict[str, Any]:
    if part["type"] == "video":
        return video_part(processor)
    check_question(processor, part["text"])
    return {"type": "text", "text": part["text"]}


def _footage(part: Mapping[str, Any]) -> Footage:
    whole = footage(part["url"])
    return File(whole.path, part.get("start_time"), part.get("end_time")) if isinstance(whole, File) else whole
