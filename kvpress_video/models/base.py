"""The interface of an adapter, which describes a model family to the rest of the package.

This file holds one class; most of it is documentation.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind, Places, Tags
from ..compressor.rope import Rope
from ..compressor.tensor_parallel import HeadSharding, sharding_of
from ..errors import MissingInputError, UnsupportedModelError
from ..utils.stock_cache import stock_dtypes
from . import deepstack
from .devices import autocast_dtype
from .findings import Feature
from .items import MediaItem, encoders_of, features_of
from .streamed_frames import StreamedFrames
from .text_layers import recurrent_modules, text_model_of

_TOKENS = {
    Kind.IMAGE: ("image_token_id", "image_token_index", "media_placeholder_token_id"),
    Kind.VIDEO: ("video_token_id", "video_token_index"),
}
"""Configuration keys of placeholders, per kind; the first one present counts."""


class StandbySettings(Protocol):
    """Capture settings of vision attention: `n` queries per frame, or learned `tokens`, (n, vision width)."""

    n: int
    tokens: Tensor | None


ImportanceSink = Callable[[Tensor], None]
"""Receives the importance of the visual tokens of one run of the vision tower, (tokens,) fp32."""


class FramePixels(NamedTuple):
    """Pixels of consecutive frames of one video, or of one image.

    Attributes:
        grid: visual tokens of the frames.
        pixels: input of the vision tower, (grid.frames, ...) floating point.
    """

    grid: Grid
    pixels: Tensor


class Adapter(StreamedFrames, ABC):
    """Description of a model family: its modules, and the layout of its visual tokens.

    Attributes:
        model_types: values of `config.model_type` that the adapter serves.
        interleaved_rope: whether M-RoPE sections alternate frequency by frequency.
        label_closes: tokens after a frame's last visual token that belong to its label; the rest of the text up to the
            next frame opens that.
        left_alone: types of text layers, in addition to full attention, whose stock caches are not compressed.
        image_blocks: whether attention within an image is bidirectional, so that no pass may split an image.
        vision_inputs: inputs that the vision tower needs for each kind, the pixels first.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    interleaved_rope: ClassVar[bool] = False
    label_closes: ClassVar[int] = 0
    left_alone: ClassVar[frozenset[str]] = frozenset()
    image_blocks: ClassVar[bool] = False
    vision_inputs: ClassVar[Mapping[Kind, tuple[str, ...]]] = {
        Kind.IMAGE: ("pixel_values",),
        Kind.VIDEO: ("pixel_values_videos",),
    }

    def __init__(self, model: nn.Module, wrapper: nn.Module | None = None) -> None:
        """Serve one model.

        Args:
            model: a transformers model.
            wrapper: the module around it whose `generate()` is called; the model itself by default.
        """
        self.model = model
        self.wrapper = model if wrapper is None else wrapper
        self.config: Any = model.config

    @property
    def refused(self) -> Mapping[Feature, str]:
        """Unsupported features and the reason for each; none with a dedicated adapter."""
        return {}

    @property
    def calibration(self) -> Mapping[str, Any]:
        """Calibrations measured once for the model and saved with it: the dictionary `config.kvpress_video`."""
        return dict(getattr(self.config, "kvpress_video", None) or {})

    @cached_property
    def inner(self) -> Any:
        """Innermost module that receives `input_ids` and encodes images or videos.

        `base_model` is the whole model where transformers 4 names no prefix.
        """
        bodies = (self.model.base_model, getattr(self.model, "model", self.model))
        return next((body for body in bodies if body is not self.model and encoders_of(body)), self.model)

    @cached_property
    def encoders(self) -> Mapping[Kind, str]:
        """Name of the method of `inner` that encodes, per kind that the model encodes."""
        return encoders_of(self.inner)

    @cached_property
    def text_model(self) -> Any:
        """Decoder with `layers[i].self_attn` and `rotary_emb`."""
        return text_model_of(self.model)

    @cached_property
    def attentions(self) -> list[nn.Module]:
        """Attention modules of the compressed layers: the text layers with full attention."""
        return self._attentions_of("full_attention") if self.layer_kinds else self._attentions_of(None)

    @cached_property
    def dispatched(self) -> bool:
        """Whether the layers compute on several devices (`device_map`)."""
        return len(set(getattr(self.model, "hf_device_map", {}).values())) > 1

    @cached_property
    def sliding(self) -> list[nn.Module]:
        """Attention modules of the sliding-window layers, whose stock caches are not compressed."""
        return self._attentions_of("sliding_attention")

    @property
    def one_mask(self) -> bool:
        """Whether all layers with attention may share a mask: none of them has a window."""
        return not self.sliding

    def _attentions_of(self, kind: str | None) -> list[nn.Module]:
        layers = self.text_model.layers
        kinds: list[str | None] = [*self.layer_kinds] or [None] * len(layers)
        return [layer.self_attn for layer, mine in zip(layers, kinds, strict=True) if mine == kind]

    @cached_property
    def recurrences(self) -> Mapping[int, nn.Module]:
        """Recurrent modules by layer index, which run row by row."""
        return recurrent_modules(self.text_model, self.layer_kinds)

    @property
    def borrowers(self) -> Mapping[int, Sequence[nn.Module]]:
        """Attention modules that read the cache of another layer, in order, by the index of that layer; none by
        default.
        """
        return {}

    @property
    def layer_kinds(self) -> list[str]:
        """Type of each text layer (`config.layer_types`); empty if the configuration has none."""
        return list(getattr(self.text_model.config, "layer_types", None) or [])

    def rope(self) -> Rope:
        """Read the rotation of the text model's keys.

        Raises:
            UnsupportedModelError: the rotation depends on the sequence length.
        """
        return Rope.of(self.text_model, self.interleaved_rope)

    def sliding_rotation(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the cos and sin of sliding-window layers at positions (batch, n), each (batch, n, head_dim)."""
        rotation: tuple[Tensor, Tensor] = self.text_model.rotary_emb(states, positions)
        return rotation

    @property
    def head_dim(self) -> int:
        """Width of a key or value of one head."""
        config = self.text_model.config
        width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return width

    @property
    def spread(self) -> HeadSharding:
        """Sharding of the KV heads over processes (tensor parallelism)."""
        attention: Any = self.attentions[0]
        return sharding_of(attention.k_proj.weight)

    @property
    def kv_heads(self) -> int:
        """Number of KV heads of a layer that this process holds.

        Raises:
            UnsupportedModelError: the number of processes does not divide the number of heads.
        """
        heads, processes = self.text_model.config.num_key_value_heads, self.spread.processes
        if heads % processes:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has {heads} KV heads, which {processes} processes cannot share equally: "
                f"load it over a number of processes that divides {heads}."
            )
        return int(heads // processes)

    @property
    def cache_dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Dtypes of the keys and values that the attentions produce now.

        Under autocast values have its dtype; keys, rotated in the dtype of the weights, have the wider of the two.
        Compressed layers store each in its own, stock layers as in `stock_dtypes`.
        """
        own: torch.dtype = self.text_model.dtype
        cast = autocast_dtype(self.text_model)
        return (own, own) if cast is None else (torch.promote_types(own, cast), cast)

    @property
    def state_bytes(self) -> int:
        """Bytes of the keys and values of one cached entry of a layer: this process's KV heads."""
        return self.kv_heads * self.head_dim * sum(dtype.itemsize for dtype in self.cache_dtypes)

    def entry_bytes(self, compact: bool) -> int:
        """Compute the bytes of one cached entry of a layer: keys, values and metadata of this process's KV heads."""
        metadata = 4 * (Tags.WIDTH + (Places.COMPACT_WIDTH if compact else Places.WIDTH))
        return self.state_bytes + self.kv_heads * metadata

    def uncompressed_states(self, tokens: int) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Describe what uncompressed layers hold for a row of `tokens` tokens: by default keys and values of windows.

        Returns:
            Shape and dtype by `{layer}.{part}`, as in `cache.uncompressed.states`.
        """
        if not self.sliding:
            return {}
        window = min(self.text_model.config.sliding_window - 1, tokens)
        shape = (1, self.kv_heads, window, self.head_dim)
        held = dict(zip(("keys", "values"), stock_dtypes(*self.cache_dtypes), strict=True))
        numbers = [number for number, kind in enumerate(self.layer_kinds) if kind == "sliding_attention"]
        return {f"{number}.{part}": (shape, dtype) for number in numbers for part, dtype in held.items()}

    def uncompressed_bytes(self, tokens: int) -> int:
        """Compute the bytes that uncompressed layers hold for a row of `tokens` tokens."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.uncompressed_states(tokens).values())

    @cached_property
    def placeholders(self) -> Mapping[Kind, int]:
        """Token id of the placeholder of a visual token, per kind that the model encodes."""
        named = named_placeholders(self.config)
        return {kind: token for kind, token in named.items() if kind in self.encoders}

    @abstractmethod
    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        """List the videos or images of one call of `get_video_features` or `get_image_features`.

        Args:
            kind: video or image.
            arguments: arguments of the call by name.
            features: result of the call, (tokens, d) per item, or one tensor with all items stacked.
        """

    def shown(self, arguments: Mapping[str, Any]) -> Mapping[Kind, Tensor]:
        """Read which visual tokens are in the prompt, for kinds of which the processor may omit some.

        Args:
            arguments: arguments of the module that receives `input_ids`, by name.

        Returns:
            Per kind, a mask over the tokens of all items, (tokens,) bool.
        """
        return {}

    @abstractmethod
    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels] | None:
        """Split the arguments of such a call into the frames of each item; None if they cannot be split."""

    @abstractmethod
    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        """Build the arguments of a call that encodes `frames`, from the arguments that they were unpacked from."""

    @abstractmethod
    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        """Join the results of several calls into the result of one call.

        Args:
            outputs: results of calls with packed arguments, which cover every frame of the items once and in order.
            grids: visual tokens of each item.
            order: items of the one call, as indices into `grids`; an item may occur several times.
        """

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Encode frames of one video outside a forward pass, as images where the model has no video input.

        Args:
            inputs: output of the family's processor, on the model's device.

        Returns:
            The visual embeddings for the text model, (tokens, d) in its dtype and without separators, and deepstack
            features, (tokens, levels·d), or None.

        Raises:
            MissingInputError: the inputs lack pixels or grids.
        """
        kind = max(self.placeholders)
        pixels, *_ = demand(inputs, *self.vision_inputs[kind])
        encode = getattr(self.inner, self.encoders[kind])
        first, *others = inspect.signature(encode).parameters
        encoded = encode(**{first: pixels}, **{name: inputs[name] for name in others if name in inputs})
        features = torch.cat([part.flatten(0, -2) for part in features_of(encoded)])
        aligned, dtype = deepstack.stacked(encoded), self.text_model.dtype
        return features.to(dtype), None if aligned is None else aligned.to(dtype)

    @abstractmethod
    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        """Hook the vision tower so that each run reports the importance of its visual tokens.

        Args:
            settings: standby queries.
            report: receives the importance, (tokens,) fp32.

        Returns:
            Handles that remove the hooks.
        """

    def take_aligned(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Read the deepstack features of the text model's arguments, (batch, n, levels·d), zero for text, or None."""
        return deepstack.take(arguments)

    def put_aligned(self, arguments: dict[str, Any], aligned: Tensor, visual: Tensor) -> None:
        """Replace the deepstack features in the text model's arguments.

        Args:
            arguments: arguments of the text model, changed in place.
            aligned: features of all tokens, (batch, m, levels·d).
            visual: visual tokens among them, (batch, m) bool.
        """
        deepstack.put(arguments, aligned, visual)


def named_placeholders(config: Any) -> dict[Kind, int]:
    """Read the placeholder token id of each kind from a configuration."""
    found = {kind: [getattr(config, name, None) for name in names] for kind, names in _TOKENS.items()}
    return {kind: token for kind, ids in found.items() for token in ids[::-1] if isinstance(token, int)}


def demand(inputs: Mapping[str, Any], *names: str) -> list[Any]:
    """Return the named inputs.

    Raises:
        MissingInputError: an input is missing or None.
    """
    missing = [name for name in names if inputs.get(name) is None]
    if missing:
        raise MissingInputError(
            f"To encode a video the model needs {', '.join(missing)}, but the inputs hold "
            f"{', '.join(inputs) or 'nothing'}: pass the output of its processor for the frames (videos=...)."
        )
    return [inputs[name] for name in names]
