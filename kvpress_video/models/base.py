"""What an adapter says of a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..entries import Kind, Places, Tags
from ..layout import Item
from ..rope import Rope


class StandbySettings(Protocol):
    """The settings of a method that needs vision attention: queries per frame, or learned ones (n, d_vit)."""

    n: int
    tokens: Tensor | None


Report = Callable[[Tensor], None]


class Adapter(ABC):
    """One model family: where things are, and how its vision tower lays tokens out.

    Attributes:
        model_types: values of `config.model_type` it serves.
        interleaved_rope: whether M-RoPE sections alternate frequency by frequency.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    interleaved_rope: ClassVar[bool] = False

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
        """The attention module of each text layer."""
        return [layer.self_attn for layer in self.text_model.layers]

    def rope(self) -> Rope:
        """The rotation of the text model's keys."""
        return Rope.of(self.text_model, self.interleaved_rope)

    def entry_bytes(self, compact: bool) -> int:
        """Bytes of one cached entry: keys, values and metadata, all KV heads of one layer."""
        config = self.text_model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        metadata = 4 * (Tags.WIDTH + (Places.COMPACT_WIDTH if compact else Places.WIDTH))
        return config.num_key_value_heads * (2 * width * self.text_model.dtype.itemsize + metadata)

    @property
    @abstractmethod
    def placeholders(self) -> Mapping[Kind, int]:
        """The token id that stands for a visual token, per kind."""

    @abstractmethod
    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[Item]:
        """The videos or images of one call of `get_video_features` or `get_image_features`.

        Args:
            kind: which of the two.
            arguments: its arguments by name.
            features: what it returned, one (tokens, d) per item or a stack of them.
        """

    @abstractmethod
    def watch_vision(self, settings: StandbySettings, report: Report) -> list[RemovableHandle]:
        """Hook the vision tower so that every run reports the importance of its visual tokens, (tokens,) fp32."""

    def take_aligned(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Features that run beside the embeddings into the text model (deepstack), (batch, n, d), zero for text."""
        return None

    def put_aligned(self, arguments: dict[str, Any], aligned: Tensor, visual: Tensor) -> None:  # noqa: B027 - optional
        """Put them back for other tokens: `aligned` (batch, m, d), of which (batch, m) `visual` ones count."""
