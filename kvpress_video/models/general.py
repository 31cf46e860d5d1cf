"""General adapter: reads modules, placeholders and grids from any model, without family-specific code."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind
from ..compressor.rope import Rope
from ..compressor.tensor_parallel import HeadSharding, sharding_of
from ..errors import UnsupportedModelError
from .base import Adapter, FramePixels, ImportanceSink, StandbySettings, named_placeholders
from .findings import Feature, Findings, refusal
from .items import MediaItem
from .media_layout import item_grids
from .text_layers import (
    CHUNKED,
    FULL,
    RECURRENT,
    SLIDING,
    WITHOUT_CACHE,
    CannotServe,
    attention_modules,
    borrowing_modules,
    layer_kinds,
)

MEDIA: Mapping[Kind, Feature] = {Kind.IMAGE: "images", Kind.VIDEO: "videos"}
_NEVER: Mapping[Feature, str] = {
    "vision attention": "the attention layers of its vision tower are not known",
    "sessions": "streaming requires a dedicated adapter, which defines the text around each frame",
    "experts": "fewer experts for visual tokens require a dedicated adapter",
    "routing": "skipping layers requires a dedicated adapter",
}

_IN_ONE_PASS: Mapping[Feature, str] = {"chunks": "its layers of chunked attention need the prompt in one pass"}


class General(Adapter):
    """Adapter for a model of any family.

    Full-attention layers are compressed; sliding-window, chunked and recurrent layers keep their stock caches.
    `Findings` state which features the self-check has verified.
    """

    unstreamed = _NEVER["sessions"]
    left_alone = frozenset({SLIDING, CHUNKED}) | RECURRENT | WITHOUT_CACHE

    def __init__(self, model: nn.Module, wrapper: nn.Module | None = None, findings: Findings | None = None) -> None:
        """Serve one model.

        Args:
            model: a transformers model.
            wrapper: the module around it whose `generate()` is called; the model itself by default.
            findings: results of the self-check; None while it runs.

        Raises:
            CannotServe: the model has unsupported parts.
        """
        super().__init__(model, wrapper)
        self._findings = findings
        self._look()

    def _look(self) -> None:
        """Read all parts, so that unsupported ones are detected before the model runs."""
        if getattr(self.config, "is_encoder_decoder", False):
            raise CannotServe("it is an encoder-decoder model, without visual tokens in the decoder's cache")
        if not hasattr(self.model, "generate"):
            headless = getattr(self.model, "get_output_embeddings", lambda: None)() is None
            raise CannotServe(
                "it has no language-model head" if headless else "its class has no generate() (GenerationMixin)"
            )
        from transformers import GenerationMixin  # which imports what only several processes need

        if not isinstance(self.model, GenerationMixin):
            inside = any(isinstance(part, GenerationMixin) for part in self.model.modules())
            raise CannotServe(
                "its generate() passes embeddings to that of its language model, without the placeholder tokens"
                if inside
                else "its generate() is not the token by token generation of transformers"
            )
        if not self.encoders:
            raise CannotServe("it has neither get_image_features nor get_video_features")
        modules = self._modules
        others = set(self.layer_kinds) - {FULL} - self.left_alone
        if others:
            raise CannotServe(f"its layers of type {', '.join(sorted(others))} are not supported")
        missing = [str(number) for number, kind in enumerate(self.layer_kinds)
                   if kind in (FULL, SLIDING, CHUNKED) and number not in modules]  # fmt: skip
        if missing:
            raise CannotServe(f"no attention module was found for layer {', '.join(missing)}")
        _ = self.borrowers
        if FULL not in self.layer_kinds:
            raise CannotServe("it has no full-attention layers to compress")
        if Kind.IMAGE not in self.placeholders and Kind.VIDEO not in self.placeholders:
            raise CannotServe("it has no placeholder token for images or videos")

    @property
    def refused(self) -> Mapping[Feature, str]:
        found = self._findings.refused if self._findings else {}
        return {**_NEVER, **found, **(_IN_ONE_PASS if CHUNKED in self.layer_kinds else {})}

    @cached_property
    def _modules(self) -> Mapping[int, nn.Module]:
        return attention_modules(self.text_model)

    @cached_property
    def borrowers(self) -> Mapping[int, Sequence[nn.Module]]:
        return borrowing_modules(self._modules)

    @property
    def one_mask(self) -> bool:
        return super().one_mask and CHUNKED not in self.layer_kinds

    def _attentions_of(self, kind: str | None) -> list[nn.Module]:
        return [self._modules[number] for number, mine in enumerate(self.layer_kinds) if mine == kind]

    @cached_property
    def layer_kinds(self) -> list[str]:
        return layer_kinds(self.text_model.config)

    def rope(self) -> Rope:
        return Rope.of(self.text_model, self._findings is not None and self._findings.interleaved_rope)

    @property
    def kv_heads(self) -> int:
        return self._known.kv_heads

    @property
    def head_dim(self) -> int:
        return self._known.head_dim

    @property
    def _known(self) -> Findings:
        if self._findings is None:
            raise UnsupportedModelError(
                f"The cache shapes of {type(self.model).__name__} are unknown before the self-check."
            )
        return self._findings

    @property
    def state_bytes(self) -> int:
        keys, values = self.cache_dtypes
        return self.kv_heads * (self.head_dim * keys.itemsize + self._known.value_dim * values.itemsize)

    def uncompressed_bytes(self, tokens: int) -> int:
        config = self.text_model.config
        sizes = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        window = min(next(filter(None, sizes), 1), tokens + 1) - 1
        return self._known.state_bytes + window * self._known.window_bytes

    @property
    def spread(self) -> HeadSharding:
        attention: Any = self.attentions[0]
        return sharding_of(getattr(getattr(attention, "k_proj", None), "weight", None))

    @cached_property
    def placeholders(self) -> Mapping[Kind, int]:
        """Placeholder token ids that the self-check found, or those of `get_placeholder_mask` or the configuration.

        Both kinds may share one.
        """
        if self._findings is not None:
            return self._findings.placeholders
        found = named_placeholders(self.config)
        masked = _masked_ids(self.inner, self.encoders, self.model.get_input_embeddings())  # type: ignore[operator]
        for kind in found.keys() & masked.keys():
            if masked[kind] not in (found[kind], found.get(Kind.IMAGE)):  # GLM writes the image's token for videos
                raise CannotServe(
                    f"its placeholder token for {MEDIA[kind]} is {found[kind]} in its configuration and {masked[kind]} "
                    "in get_placeholder_mask"
                )
        found |= masked
        if Kind.IMAGE in found:
            found.setdefault(Kind.VIDEO, found[Kind.IMAGE])
        return {kind: found[kind] for kind in self.encoders if kind in found}

    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        if MEDIA[kind] in self.refused:
            self._refuse(MEDIA[kind])
        vision = getattr(self.config, "vision_config", None)
        grids = item_grids(kind, arguments, features, getattr(vision, "patch_size", None))
        return [MediaItem(grid) for grid in grids]

    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels] | None:
        return None

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        self._refuse("sessions")

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        self._refuse("sessions")

    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        self._refuse("sessions")

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        self._refuse("vision attention")

    def _refuse(self, feature: Feature) -> NoReturn:
        raise refusal(self.model, feature, self.refused[feature])


def _masked_ids(inner: Any, kinds: Iterable[Kind], embedding: Any) -> dict[Kind, int]:
    """Return the token ids that `get_placeholder_mask` selects, per kind; empty if it has another signature."""
    call = getattr(inner, "get_placeholder_mask", None)
    if call is None or "token_id" in inspect.signature(call).parameters:
        return {}
    ids = torch.arange(embedding.num_embeddings, device=embedding.weight.device)[None]
    one = torch.zeros(1, 1, 1, device=ids.device)
    features = {name: one for name in inspect.signature(call).parameters if name.endswith("_features")}
    try:
        masks = call(input_ids=ids, inputs_embeds=one.expand(1, ids.shape[1], 1), **features)
    except (ValueError, RuntimeError, TypeError, AttributeError):  # another form of mask
        return {}
    masks = masks if isinstance(masks, tuple) else (masks,)
    found = {kind: mask.reshape(-1).nonzero().flatten().tolist() for kind, mask in zip(kinds, masks, strict=False)}
    return {kind: each[0] for kind, each in found.items() if len(each) == 1}
