"""What an adapter says of a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind, Places, Tags
from ..compressor.rope import Rope
from ..compressor.tensor_parallel import HeadSharding, sharding_of
from ..errors import MissingInputError, UnsupportedModelError
from .items import MediaItem


class StandbySettings(Protocol):
    """The settings of a method that needs vision attention: queries per frame, or learned ones (n, d_vit)."""

    n: int
    tokens: Tensor | None


ImportanceSink = Callable[[Tensor], None]


class FramePixels(NamedTuple):
    """Successive frames of one video, or one image, on their way into the vision tower.

    Attributes:
        grid: their visual tokens.
        pixels: (grid.frames, ...), what the tower reads of each.
    """

    grid: Grid
    pixels: Tensor


class Adapter(ABC):
    """One model family: where things are, and how its vision tower lays tokens out.

    Attributes:
        model_types: values of `config.model_type` it serves.
        interleaved_rope: whether M-RoPE sections alternate frequency by frequency.
        frames_per_step: video frames that make one temporal step.
        written_times: whether the time or the number of each frame is written before it, as text.
        left_alone: kinds of text layers beside full attention that the family has; their caches stay stock ones.
        image_blocks: whether the tokens of an image see each other both ways, so that no pass may cut it.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    interleaved_rope: ClassVar[bool] = False
    frames_per_step: int = 1
    written_times: ClassVar[bool] = False
    left_alone: ClassVar[frozenset[str]] = frozenset()
    image_blocks: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config

    @property
    def inner(self) -> Any:
        """The module that receives `input_ids` and has `get_image_features` and `get_video_features`."""
        return self.model.base_model

    @property
    def text_model(self) -> Any:
        """The decoder, with `layers[i].self_attn` and `rotary_emb`."""
        return self.model.get_decoder()  # type: ignore[operator]

    @property
    def attentions(self) -> list[nn.Module]:
        """The attention modules whose caches are compressed: those of the text layers of full attention."""
        return self._attentions_of("full_attention") if self.layer_kinds else self._attentions_of(None)

    @property
    def sliding(self) -> list[nn.Module]:
        """The attention modules of sliding layers, whose caches stay stock ones."""
        return self._attentions_of("sliding_attention")

    def _attentions_of(self, kind: str | None) -> list[nn.Module]:
        layers = self.text_model.layers
        kinds: list[str | None] = [*self.layer_kinds] or [None] * len(layers)
        return [layer.self_attn for layer, mine in zip(layers, kinds, strict=True) if mine == kind]

    @property
    def recurrences(self) -> Mapping[int, nn.Module]:
        """The recurrent modules among what is left alone, by the number of their layer."""
        return {}

    @property
    def layer_kinds(self) -> list[str]:
        """What each text layer does (`config.layer_types`); empty where the config does not say."""
        return list(getattr(self.text_model.config, "layer_types", None) or [])

    def rope(self) -> Rope:
        """The rotation of the text model's keys."""
        return Rope.of(self.text_model, self.interleaved_rope)

    def sliding_rotation(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cos and sin that sliding layers rotate by, at positions (batch, n)."""
        rotation: tuple[Tensor, Tensor] = self.text_model.rotary_emb(states, positions)
        return rotation

    @property
    def head_dim(self) -> int:
        """Width of a key."""
        config = self.text_model.config
        width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return width

    @property
    def spread(self) -> HeadSharding:
        """How the KV heads are spread over processes (tensor parallel)."""
        attention: Any = self.attentions[0]
        return sharding_of(attention.k_proj.weight)

    @property
    def kv_heads(self) -> int:
        """KV heads of one layer that this process holds.

        Raises:
            UnsupportedModelError: they cannot be shared out equally.
        """
        heads, processes = self.text_model.config.num_key_value_heads, self.spread.processes
        if heads % processes:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has {heads} KV heads, which {processes} processes cannot share equally: "
                f"load it over a number of processes that divides {heads}."
            )
        return int(heads // processes)

    def entry_bytes(self, compact: bool) -> int:
        """Bytes of one cached entry on this process's device: keys, values and metadata, its KV heads of one layer."""
        metadata = 4 * (Tags.WIDTH + (Places.COMPACT_WIDTH if compact else Places.WIDTH))
        return self.kv_heads * (2 * self.head_dim * self.text_model.dtype.itemsize + metadata)

    def beside_bytes(self, tokens: int) -> int:
        """Bytes that layers which are left alone hold of a row of so many tokens: keys and values of their windows."""
        if not self.sliding:
            return 0
        window = min(self.text_model.config.sliding_window - 1, tokens)
        entry = 2 * self.kv_heads * self.head_dim * self.text_model.dtype.itemsize
        return int(len(self.sliding) * window * entry)

    @property
    @abstractmethod
    def placeholders(self) -> Mapping[Kind, int]:
        """The token id that stands for a visual token, per kind."""

    @abstractmethod
    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        """The videos or images of one call of `get_video_features` or `get_image_features`.

        Args:
            kind: which of the two.
            arguments: its arguments by name.
            features: what it returned, one (tokens, d) per item or a stack of them.
        """

    def shown(self, arguments: Mapping[str, Any]) -> Mapping[Kind, Tensor]:
        """Which visual tokens a prompt has, (tokens of all items,) bool, of the kinds of which it may leave some out.

        Args:
            arguments: of the module that receives `input_ids`.
        """
        return {}

    @abstractmethod
    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels] | None:
        """The frames of each video or image of such a call; None where it cannot be cut (any-resolution images)."""

    @abstractmethod
    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        """The arguments of a call that encodes these frames, from those of the call that they were unpacked from."""

    @abstractmethod
    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        """What one call would have returned, from what several returned.

        Args:
            outputs: of calls with packed arguments: every frame of the items, once, in order.
            grids: those items.
            order: what the one call would have encoded, as ordinals of them; each comes once or more.
        """

    @abstractmethod
    def encode(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Encode the frames of one piece of video outside a forward pass, by way of `inner.get_video_features`.

        Args:
            inputs: what the family's processor makes of them, on the model's device.

        Returns:
            The visual embeddings as the text model takes them, (tokens, d) without separators, and the features that
            run beside them (deepstack), (tokens, levels·d), or None.

        Raises:
            MissingInputError: pixels or grids are not among the inputs.
        """

    def temporal_offsets(self, grid: Grid, seconds: Sequence[float], steps: Sequence[int]) -> list[float]:
        """How far temporal steps stand, in positions, from one that came `seconds` and `steps` before them."""
        return [float(step * grid.patches) for step in steps]

    @abstractmethod
    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        """Hook the vision tower so that every run reports the importance of its visual tokens, (tokens,) fp32."""

    def take_aligned(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Features that run beside the embeddings into the text model (deepstack), (batch, n, d), zero for text."""
        return None

    def put_aligned(self, arguments: dict[str, Any], aligned: Tensor, visual: Tensor) -> None:  # noqa: B027 - optional
        """Put them back for other tokens: `aligned` (batch, m, d), of which (batch, m) `visual` ones count."""


def demand(inputs: Mapping[str, Any], *names: str) -> list[Any]:
    """The named inputs.

    Raises:
        MissingInputError: one of them is missing.
    """
    missing = [name for name in names if inputs.get(name) is None]
    if missing:
        raise MissingInputError(
            f"To encode a video the model needs {', '.join(missing)}, but the inputs hold "
            f"{', '.join(inputs) or 'nothing'}: pass what its processor makes of the frames (videos=...)."
        )
    return [inputs[name] for name in names]
