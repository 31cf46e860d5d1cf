"""What a method is given of the model: the output projection head by head, and queries with their positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt
from torch import Tensor, nn

import kvpress_video as kv
from kvpress_video.attention.output_weight import output_weight
from kvpress_video.compressor import Compressor, Context, Entries
from kvpress_video.errors import UnsupportedModelError


@dataclass(frozen=True)
class Asking(Compressor):
    """Notes what it is given in each layer."""

    window: int = 5
    seen: list[Context] = field(default_factory=list)

    needs: ClassVar[frozenset[str]] = frozenset({"queries", "rope", "output_weight"})

    def scores(self, entries: Entries) -> Tensor:
        self.seen.append(entries.context)
        return entries.values.float().norm(dim=-1)


def text_attentions(model: Any) -> list[Any]:
    return [layer.self_attn for layer in model.get_decoder().layers if hasattr(layer, "self_attn")]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_parts_of_the_output_projection_add_up_to_it(family: str) -> None:
    model, method = model_of(family), Asking()
    with kv.compress(model, method, "50%"):
        answer(model, zoo.inputs(model, [video_prompt(family)]), new=1)
    modules = [module for module in text_attentions(model) if not getattr(module, "is_sliding", False)]
    assert len(method.seen) == len(modules)
    for context, module in zip(method.seen, modules, strict=True):
        weight = context.output_weight
        assert weight is not None
        mixed = torch.randn(module.o_proj.in_features)
        by_head = mixed.view(*weight.shape[:3])
        torch.testing.assert_close(torch.einsum("hgd,hgdo->o", by_head, weight), mixed @ module.o_proj.weight.T)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_queries_rotated_back_are_what_the_layer_projects(family: str) -> None:
    """With the layer's own norm of queries."""
    model, method = model_of(family, "eager"), Asking()
    given: list[Tensor] = []
    first = text_attentions(model)[0]
    handle = first.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["hidden_states"]), with_kwargs=True
    )
    with handle, kv.compress(model, method, "50%"):
        answer(model, zoo.inputs(model, [video_prompt(family)]), new=1)
    queries, rope = method.seen[0].queries, method.seen[0].rope
    assert queries is not None
    assert queries.positions is not None
    assert rope is not None
    found = rope.rotate(queries.states, -queries.positions[:, None]) / (first.scaling * rope.scale)
    made = first.q_proj(given[0][:, -5:]).unflatten(-1, (-1, found.shape[-1]))
    expected = getattr(first, "q_norm", nn.Identity())(made).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_quantised_projection_is_refused() -> None:
    attention: Any = nn.Module()
    attention.o_proj = nn.Module()
    attention.num_key_value_groups = 2
    for weight in (torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(8, 8, device="meta")):
        attention.o_proj.weight = weight
        with pytest.raises(UnsupportedModelError, match="without quantisation"):
            output_weight(attention, 2)
