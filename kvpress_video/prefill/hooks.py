"""Attach to a model everything that compresses its cache, and remove it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from ..attention.layer_compressor import LayerCompressor
from ..attention.masks import check_attention
from ..budget import Budget
from ..compressor.base import Compressor
from ..compressor.entries import Entries, Kind
from ..errors import UnsupportedModelError
from ..models.base import Adapter
from ..models.devices import device_of
from ..utils.eager import uncompiled
from ..utils.method_patch import replaced
from ..utils.timing import DeviceTimer
from .assisted_generation import checked_guesses
from .gradient_checkpointing import cache_allowed
from .options import PrefillOptions, check_supported
from .pass_reader import Arrival, ModelInputs, PassReader
from .runner import Finished, PromptRunner
from .shared import SharedPrefill
from .vision_tower import VisionRecorder

_NO_INPUTS = ModelInputs()
_VISION_GROUP = 2048  # most visual tokens that the vision tower encodes at once without a chunk size


class ModelHooks:
    """One method with one budget on one model.

    While they are `attached`, the model's calls run through a `PromptRunner`. A deep copy made meanwhile is a stock
    model.

    Attributes:
        vision: encodes frames and records the output of the vision tower.
        runner: runs the passes.
        timer: measures `"prefill"` (vision tower and text model up to the last visual token, compression included) and
            `"compress"`.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Compressor,
        budget: Budget,
        options: PrefillOptions,
        finished: Finished,
        shared: SharedPrefill | None = None,
        archive: Callable[[int, Entries, bool], None] | None = None,
    ) -> None:
        """Prepare the hooks; `attached` registers them.

        Args:
            adapter: adapter of the model.
            method: the method.
            budget: budget of the cache.
            options: prefill options.
            finished: called after every prefill with visual tokens.
            shared: recorded prefills to use and extend.
            archive: see `LayerCompressor`; a prompt makes its own if the method needs one.

        Raises:
            UnsupportedModelError: the model does not support the method or an option.
            BudgetError: the model has fewer experts.
        """
        check_supported(adapter, method, options)
        self._adapter, self._uneven = adapter, method.uneven
        compact = options.compact
        rope = adapter.rope() if compact or method.needs & {"queries", "probe", "rope"} else None
        standby: Any = method.observer if "vision_attention" in method.needs else None
        self.timer = DeviceTimer(device_of(adapter.text_model))
        state = (adapter.spread, adapter.image_blocks, adapter.calibration, archive)
        compressor = LayerCompressor(method, rope, self.timer, *state)
        self.vision = VisionRecorder(adapter, standby, options.chunk or _VISION_GROUP, self.timer, shared)
        reader = PassReader(adapter, self.vision.attentive, rope if compact else None, options.labelled)
        self.runner = PromptRunner(adapter, compressor, budget, options, reader, finished, shared)
        self._inputs = _NO_INPUTS

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Context manager that registers the hooks on the model.

        Raises:
            UnsupportedModelError: another compression is active on this model, or its attention is not supported.
        """
        text, inner = self._adapter.text_model, self._adapter.inner
        check_attention(text.config._attn_implementation, self._uneven)
        if any(isinstance(hook, _InputHook) for hook in inner._forward_pre_hooks.values()):
            raise UnsupportedModelError(
                "This model is being compressed already. Leave that kv.compress() block first, call remove() on the "
                "handle that kv.patch() returned, or run the program without kvpress-video run."
            )
        with ExitStack() as undo:
            undo.enter_context(uncompiled((self._adapter.model, inner, text)))
            undo.enter_context(self.vision.attached())
            undo.callback(inner.register_forward_pre_hook(_InputHook(self), with_kwargs=True).remove)
            undo.enter_context(replaced(text, "forward", self._text_forward))
            checked = checked_guesses(self._adapter.placeholders.values())
            undo.enter_context(replaced(self._adapter.model, "_get_candidate_generator", checked))
            yield

    def note_inputs(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note the token ids, which only the outer module sees, for the text model's call that follows.

        Earlier encodings are dropped, unless the call passes them on.
        """
        handed = kwargs.get("mm_encoder_outputs") or {}
        self.vision.drop({kind for kind in Kind if handed.get(kind.name.lower()) is None})
        ids = kwargs.get("input_ids", args[0] if args else None)
        shown = self._adapter.shown(kwargs)
        self._inputs = ModelInputs(ids, kwargs.get("token_type_ids"), shown)

    def _text_forward(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, arrival: Arrival | None = None, **kwargs: Any) -> Any:
            if args:
                raise UnsupportedModelError("The text model was called with positional arguments: pass them by name.")
            noted, self._inputs = self._inputs, _NO_INPUTS
            inputs = ModelInputs(noted.ids, noted.types, noted.shown, self.vision.take())
            try:
                with cache_allowed(self._adapter.text_model):
                    return self.runner.run(forward, kwargs, arrival or inputs)
            except BaseException:
                self.timer.clear()
                raise

        return run


class _InputHook:
    """Forward pre-hook of the module that sees token ids; in a deep copy of the module it does nothing."""

    def __init__(self, hooks: ModelHooks) -> None:
        self._hooks = hooks

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._hooks.note_inputs(args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _do_nothing


def _do_nothing(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None: ...
