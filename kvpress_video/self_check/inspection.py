"""Report of the features and methods that a model supports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..compressor.registry import make_method, method_names
from ..errors import KVPressVideoError, UnsupportedModelError
from ..models import adapter_for
from ..models.base import Adapter
from ..models.findings import CURES, Feature, findings_of
from ..models.general import General
from ..models.wrappers import unwrapped
from ..prefill.options import PrefillOptions, check_supported, missing_feature
from .check import ensure_checked


@dataclass(frozen=True)
class Inspection:
    """Features and methods that a model supports; `print` shows them line by line.

    Attributes:
        model: name of its class.
        model_type: that of its configuration.
        adapter: name of its adapter; empty if the model is not supported.
        unsupported: why the model is not supported; empty if it is.
        layers: indices of the text layers by type; `full_attention` layers are compressed.
        placeholders: placeholder token id by kind.
        refused: unsupported features and the reason for each.
        methods: supported methods.
        other_methods: unsupported methods, each with the missing feature or the reason.
        prompt: synthetic prompt of the self-check; empty with a dedicated adapter.
        passed: checks that passed.
    """

    model: str
    model_type: str
    adapter: str = ""
    unsupported: str = ""
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    placeholders: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[Feature, str] = field(default_factory=dict)
    methods: Sequence[str] = ()
    other_methods: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    passed: Sequence[str] = ()

    def __str__(self) -> str:
        if self.unsupported:
            return self.unsupported
        kinds = (f"{kind} {_ranges(numbers)}" for kind, numbers in self.layers.items())
        reasons = {name: why for name, why in self.other_methods.items() if why not in CURES}
        others = ", ".join(f"{name} ({why})" if why in CURES else name for name, why in self.other_methods.items())
        lines = [
            f"{self.model} (model type {self.model_type!r}): adapter {self.adapter}",
            f"layers: {'; '.join(kinds)}",
            f"placeholders: {', '.join(f'{kind} {token}' for kind, token in self.placeholders.items())}",
            *([f"checked on: {self.prompt}"] if self.prompt else []),
            *(f"passed: {what}" for what in self.passed),
            *(f"no {what}: {reason}" for what, reason in self.refused.items()),
            f"methods: {', '.join(self.methods)}",
            f"methods not supported: {others or 'none'}",
            *(f"no {name}: {why}" for name, why in reasons.items()),
        ]
        return "\n".join(lines)


def inspect(model: Any, inputs: Mapping[str, Any] | None = None) -> Inspection:
    """Report which features and methods a model supports; checks it first if it has no dedicated adapter.

    Args:
        model: a loaded transformers model, wrapped or not.
        inputs: output of its processor for one image or one video, as a template of the pixels' shapes; needed for
            vision towers with an unknown input format.
    """
    config = getattr(unwrapped(model), "config", None)
    name, model_type = type(unwrapped(model)).__name__, str(getattr(config, "model_type", None))
    try:
        ensure_checked(model, inputs)
        adapter = adapter_for(model)
    except UnsupportedModelError as error:
        return Inspection(name, model_type, unsupported=str(error))
    findings = findings_of(adapter.model)
    others = {each: feature for each in method_names() if (feature := _missing(adapter, each))}
    layers: dict[str, list[int]] = {}
    for number, kind in enumerate(adapter.layer_kinds or ["full_attention"] * len(adapter.attentions)):
        layers.setdefault(kind, []).append(number)
    return Inspection(
        name,
        model_type,
        "general" if isinstance(adapter, General) else type(adapter).__name__,
        layers=layers,
        placeholders={kind.name.lower(): token for kind, token in adapter.placeholders.items()},
        refused=adapter.refused,
        methods=[each for each in method_names() if each not in others],
        other_methods=others,
        prompt=findings.prompt if findings else "",
        passed=findings.passed if findings else (),
    )


def _missing(adapter: Adapter, name: str) -> str:
    """Return the feature that a method with default settings requires and a model lacks, or another reason why it is
    not supported; empty if it is.
    """
    method = make_method(name)
    options = PrefillOptions(stage="cache" if "cache" in method.stages else "input")
    try:
        check_supported(adapter, method, options)
    except KVPressVideoError as error:
        return missing_feature(adapter, method, options) or str(error)
    return ""


def _ranges(numbers: Sequence[int]) -> str:
    """Format ascending numbers as ranges."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
