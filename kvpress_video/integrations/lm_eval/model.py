"""The lm-eval model `kvpress-video`: any supported checkpoint, with its cache compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from ...errors import KVPressVideoError, VideoError
from ...models.devices import device_of
from ...utils.questions import check_question
from ..answering import Answerer, Request
from ..footage import footage
from ..generation import Generation
from ..options import Options, with_flags

_MADE_BY = "kvpress-video"
"""Key of the options in a file of cached answers."""


class Prompt(str):
    """A context already written in the model's chat template."""

    __slots__ = ()


@register_model("kvpress-video")
class KVPressVideoLM(LM):
    """Answers `generate_until` requests about videos.

    The video of a request is its only visual (`doc_to_image`): the path of a file, or frames in memory. The context
    follows it in the model's chat template; with `--apply_chat_template` the prompt also has turns for the system
    instruction and examples.
    """

    MULTIMODAL = True

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
        self._device = device_of(self._answerer.model)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> KVPressVideoLM:
        """Make the model from `"key=value,…"`, which lm-eval splits at every comma."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> KVPressVideoLM:
        """Make the model from arguments and lm-eval's own flags."""
        return cls(**with_flags(arg_dict, additional_config))

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Answer requests, in their order.

        Raises:
            VideoError: a request has no video, several, or one that cannot be read.
            KVPressVideoError: a request asks for decoding that is not greedy.
        """
        answers = [""] * len(requests)
        for place, answer in self._answerer.answer([self._request(request) for request in requests]):
            answers[place] = answer
            self.cache_hook.add_partial("generate_until", requests[place].args, answer)
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Reject likelihood requests.

        Raises:
            KVPressVideoError: always.
        """
        tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
        raise KVPressVideoError(
            f"kvpress-video has no likelihoods, which {tasks} asks for: choose tasks whose output_type is "
            "generate_until."
        )

    loglikelihood_rolling = loglikelihood

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation in the chat template, with the video before the last text of the user.

        Raises:
            QuestionError: a text contains a special token of the model.
        """
        for turn in chat_history:
            check_question(self._answerer.processor, turn["content"], f"text of the {turn['role']}")
        asked = max(place for place, turn in enumerate(chat_history) if turn["role"] == "user")
        turns = [
            {"role": turn["role"], "content": [*[{"type": "video"}] * (place == asked), _text(turn["content"])]}
            for place, turn in enumerate(chat_history)
        ]
        rest: dict[str, bool] = {} if add_generation_prompt else {"continue_final_message": True}
        return Prompt(
            self._answerer.processor.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, tokenize=False, **rest
            )
        )

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the model's own template, ignoring the name."""
        return str(self._answerer.processor.chat_template or "")

    @property
    def tokenizer_name(self) -> str:
        """Name of the model in the keys of lm-eval's request cache."""
        return self._answerer.options.pretrained.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Return the requested and the achieved compression, to be stored with the results."""
        return {"kvpress_video": self._answerer.achieved()}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Cache answers in a file (`--use_cache`), in which lm-eval finds them by question alone.

        Raises:
            KVPressVideoError: the file has answers of another model, method or budget.
        """
        kept, mine = cache_hook.dbdict, self._answerer.options.determining_answers
        if kept is not None:
            if len(kept) and kept.get(_MADE_BY) != mine:
                raise KVPressVideoError(
                    f"{kept.filename} has answers of {kept.get(_MADE_BY, 'another model')}, not of {mine}: "
                    "give --use_cache another path."
                )
            kept[_MADE_BY] = mine
        super().set_cache_hook(cache_hook)

    def _request(self, request: Instance) -> Request:
        context, generation, *visuals = request.args
        if not visuals or "visual" not in visuals[0]:
            raise VideoError(
                f"The task {request.task_name} asks without a video: its doc_to_image must return a path or frames."
            )
        return Request(
            footage(visuals[0]["visual"]),
            context if isinstance(context, Prompt) else self._answerer.prompt(context),
            Generation.read(generation, self._answerer.options.max_new_tokens),
        )


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}
