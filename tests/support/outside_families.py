"""A tiny video model of no registered type, written as code that is loaded with `trust_remote_code` is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, LlamaModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from kvpress_video.models.cache_argument import CACHE

IMAGE = 90
_PATCH, _MERGE, _WIDTH = 4, 2, 32


class OutsideConfig(PretrainedConfig):
    """Two text layers, and a tower of two-by-two merged patches."""

    model_type = "outside"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        sizes = {"hidden_size": _WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
        self.text_config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
        self.vision_config = SimpleNamespace(patch_size=_PATCH, spatial_merge_size=_MERGE, in_channels=3)
        self.image_token_id = IMAGE

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": self.model_type, "image_token_id": self.image_token_id}


class Tower(nn.Module):
    """Embeds patches and their coordinates, which it demands, and merges four of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * _PATCH**2, _WIDTH)
        self.place = nn.Linear(3, _WIDTH)
        self.merge = nn.Linear(_MERGE**2 * _WIDTH, _WIDTH)

    def forward(self, pixels: Tensor, grid_thw: Tensor, patch_positions: Any) -> Tensor:
        if patch_positions.shape != (int(grid_thw.prod(-1).sum()), 3):
            raise ValueError(f"{grid_thw.tolist()} patches have {len(patch_positions)} positions")
        patches = self.patch(pixels) + self.place(patch_positions.float())
        return self.merge(patches.reshape(-1, _MERGE**2 * _WIDTH))


class OutsideModel(PreTrainedModel, GenerationMixin):
    """A decoder of transformers whose placeholder tokens are replaced by features of the tower."""

    config_class = OutsideConfig
    _supports_sdpa = True

    def __init__(self, config: OutsideConfig) -> None:
        super().__init__(config)
        self.visual = Tower()
        self.language_model = LlamaModel(config.text_config)
        self.lm_head = nn.Linear(_WIDTH, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_decoder(self) -> nn.Module:
        return self.language_model

    def get_image_features(self, pixel_values: Tensor, image_grid_thw: Any = None, patch_positions: Any = None) -> Any:
        return self.visual(pixel_values, image_grid_thw, patch_positions)

    def forward(
        self,
        input_ids: Any = None,
        pixel_values: Any = None,
        image_grid_thw: Any = None,
        patch_positions: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        embedded = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if pixel_values is not None:
            features = self.get_image_features(pixel_values, image_grid_thw, patch_positions)
            where = (input_ids == self.config.image_token_id)[..., None].expand_as(embedded)
            embedded = embedded.masked_scatter(where, features)
        held = {CACHE: past_key_values if cache is None else cache}
        output = self.language_model(inputs_embeds=embedded, attention_mask=attention_mask, **held, **kwargs)
        return CausalLMOutputWithPast(logits=self.lm_head(output[0]), **{CACHE: output[CACHE]})

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        prepared = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if prepared["input_ids"].shape[1] == 1:  # decoding
            prepared["pixel_values"] = None
        return prepared


class OtherNamesConfig(OutsideConfig):
    """Names the placeholder as Kimi-VL does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.media_placeholder_token_id = self.__dict__.pop("image_token_id")

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": self.model_type, "media_placeholder_token_id": self.media_placeholder_token_id}


class OtherNames(PreTrainedModel, GenerationMixin):
    """Names the method that encodes and the sizes of images as Kimi-VL does."""

    config_class = OtherNamesConfig
    _supports_sdpa = True

    def __init__(self, config: OutsideConfig) -> None:
        super().__init__(config)
        self.visual = Tower()
        self.language_model = LlamaForCausalLM(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        return self.language_model.get_decoder()

    def _extract_image_features(self, pixel_values: Tensor, image_grid_hws: Tensor) -> Tensor:
        places = [torch.cartesian_prod(torch.arange(1), *map(torch.arange, size)) for size in image_grid_hws.tolist()]
        return self.visual(pixel_values, image_grid_hws, torch.cat(places))

    def forward(
        self,
        input_ids: Any = None,
        pixel_values: Any = None,
        image_grid_hws: Any = None,
        inputs_embeds: Any = None,
        **kwargs: Any,
    ) -> Any:
        embedded = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        if pixel_values is not None and input_ids.shape[1] > 1:
            features = self._extract_image_features(pixel_values, image_grid_hws)
            where = (input_ids == self.config.media_placeholder_token_id)[..., None].expand_as(embedded)
            embedded = embedded.masked_scatter(where, features)
        return self.language_model(inputs_embeds=embedded, **kwargs)


class Forgetful(OutsideModel):
    """Takes a cache, even an empty one, for a sign that the image has been read."""

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs) | {"pixel_values": None}


class OwnGenerate(PreTrainedModel):
    """Embeds the prompt itself, and lets its language model generate from the embeddings."""

    config_class = OutsideConfig

    def __init__(self, config: OutsideConfig) -> None:
        super().__init__(config)
        self.language_model = LlamaForCausalLM(config.text_config)

    def generate(self, pixel_values: Tensor, input_ids: Tensor, **kwargs: Any) -> Any:
        embedded = self.language_model.get_input_embeddings()(input_ids)
        return self.language_model.generate(inputs_embeds=embedded + pixel_values, **kwargs)


class WithoutGenerate(PreTrainedModel):
    """Inherits no `generate()`, as code for training does."""

    config_class = OutsideConfig

    def __init__(self, config: OutsideConfig) -> None:
        super().__init__(config)
        self.model = OutsideModel(config)

    def get_output_embeddings(self) -> nn.Module:
        return self.model.lm_head


def outside(family: type[PreTrainedModel]) -> Any:
    """Make a model of random weights."""
    torch.manual_seed(0)
    return family(family.config_class()).eval()
