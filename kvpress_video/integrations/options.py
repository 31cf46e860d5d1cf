"""Model arguments of evaluation harnesses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from ..budget import UNCOMPRESSED, UNCOMPRESSED_BUDGET, Budget, BudgetLike
from ..cache.quantization import Quantization
from ..compressor.registry import make_method, method_class
from ..errors import BudgetError, UnknownNameError, unknown_name
from ..prefill.options import Labels, Positions, Prefill, Stage
from ..utils.model_names import BUNDLED
from ..utils.named_settings import parse

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Model, compression and generation options of a harness's model arguments.

    Attributes:
        pretrained: `"bundled"`, or a folder or hub name.
        method, budget: as in `compress`; `"full"` needs no budget.
        settings: settings of the method.
        device, dtype, attention, device_map: as in `load`.
        stage, prefill, chunk, positions, labels, quantize: as in `compress`.
        max_new_tokens: maximum number of answer tokens if the request sets none.
        batch_size: questions about one video that are answered together and share its prefill.
        frames, fps: video frames to sample from a file, in total or per second; all by default. Frames in memory are
            all used, at `fps` frames per second.
    """

    pretrained: str = BUNDLED
    method: str = UNCOMPRESSED
    budget: BudgetLike = UNCOMPRESSED_BUDGET
    settings: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    device_map: str | dict[str, Any] | None = None
    stage: Stage = "cache"
    prefill: Prefill = "auto"
    chunk: int | None = None
    positions: Positions = "keep"
    labels: Labels = "spread"
    quantize: int | str | None = None
    max_new_tokens: int = 256
    batch_size: int = 8
    frames: int | None = None
    fps: float | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Read model arguments; those that are not options are settings of the method.

        Raises:
            UnknownNameError: an argument is neither an option nor a setting, or a value has the wrong type.
            BudgetError: the budget is missing or cannot be read.
        """
        known = {option.name for option in fields(cls)} - {"settings"}
        own = {name: value for name, value in given.items() if name in known and value is not None}
        settings = {name: value for name, value in given.items() if name not in known}
        method = own.get("method", UNCOMPRESSED)
        taken = {setting.name for setting in fields(method_class(parse(method)[0])) if setting.init}
        for name in settings:
            if name not in taken:
                raise unknown_name("model argument", name, known | taken)
        make_method(method, **settings)
        if "budget" not in own:
            if method != UNCOMPRESSED:
                raise BudgetError(f"The method {method} needs a budget: add budget=25%, budget=6144 or budget=256MiB.")
            own["budget"] = UNCOMPRESSED_BUDGET
        Budget.parse(own["budget"])
        Quantization.parse(own.get("quantize"))
        for name in {"max_new_tokens", "batch_size", "frames", "chunk"} & own.keys():
            own[name] = _count(name, own[name])
        return cls(**own, settings=settings)

    @property
    def determining_answers(self) -> dict[str, Any]:
        """The options that answers depend on."""
        others = ("device", "device_map", "batch_size")
        return {name: value for name, value in asdict(self).items() if name not in others}


def with_flags(arguments: Mapping[str, Any], flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add the harness's own flags, such as a device or a batch size, to model arguments, which take precedence.

    A CUDA device among the flags is ignored without CUDA: lm-eval sets it by default.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if "device_map" in arguments:
        given.pop("device", None)
    if "device" not in arguments and str(given.get("device")).startswith("cuda") and not torch.cuda.is_available():
        logger.warning("CUDA is not available: %s is ignored, and the model runs on the CPU.", given.pop("device"))
    return {**given, **arguments}


def _count(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise UnknownNameError(f"{name} is a whole number above zero, got {value!r}.")
    return number
