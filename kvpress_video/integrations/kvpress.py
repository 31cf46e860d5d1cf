"""kvpress: run a press that scores entries on video, with the text protected."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..attention.queries import projected_queries
from ..compressor.attention_call import AttentionCall
from ..compressor.base import Compressor
from ..compressor.entries import Context, Entries
from ..compressor.ranking import top
from ..compressor.rope import Rope
from ..errors import KVPressVideoError, MethodError, MissingInputError, UnsupportedModelError, unknown_name

_PLAIN = (bool, int, float, str, type(None))


def from_kvpress(press: Any, **settings: Any) -> Compressor:
    """Make a method from a press of kvpress.

        with kv.compress(model, kv.from_kvpress(SnapKVPress(window_size=32)), "25%"):
            out = model.generate(**inputs)

    The press scores all entries of a layer, text included, as in kvpress; only the visual entries of a segment are
    evicted, down to the budget, in every head. The press sees queries and keys with the model's own norms, and the
    rotations of M-RoPE merged over its axes. Its `compression_ratio` is set from the budget at each call. Attention
    weights are not passed, and `post_init_from_model()` is not called: call it first if the press needs it.

    Args:
        press: an object with the `score()` of `kvpress.ScorerPress`, or the name of one of kvpress's classes. It is
            copied.
        **settings: arguments of the class, if `press` is a name.

    Raises:
        KVPressVideoError: `press` is a name, and kvpress is not installed; it needs transformers below 5.3.
        UnknownNameError: kvpress has no such class.
        MethodError: the press has no `score()` or is a class, or settings are given along with an instance.
    """
    if isinstance(press, str):
        return Press(_press_class(press)(**settings))
    if settings:
        raise MethodError(f"{type(press).__name__} is already made: give {', '.join(settings)} to its constructor.")
    return Press(press)


def _press_class(name: str) -> Any:
    try:
        kvpress = importlib.import_module("kvpress")
    except ImportError as error:
        raise KVPressVideoError(
            f"This needs kvpress ({error}): pip install kvpress 'transformers<5.3', in a separate environment."
        ) from error
    if not hasattr(kvpress, name):
        raise unknown_name("press", name, [each for each in kvpress.__all__ if each.endswith("Press")])
    return getattr(kvpress, name)


@dataclass(frozen=True)
class Press(Compressor):
    """Keep the entries that a press of kvpress scores highest, see `from_kvpress`.

    Attributes:
        press: object with the `score()` of `kvpress.ScorerPress`.
    """

    press: Any

    needs: ClassVar[frozenset[str]] = frozenset({"attention", "rope"})
    source: ClassVar[str] = "a press of kvpress"

    def __post_init__(self) -> None:
        if isinstance(self.press, type):
            raise MethodError(f"{self.press.__name__} is a class: pass an instance, {self.press.__name__}(…).")
        if not callable(getattr(self.press, "score", None)):
            raise MethodError(
                f"{type(self.press).__name__} has no score(module, hidden_states, keys, values, attentions, kwargs): "
                "only presses that score entries can run here, such as kvpress.KnormPress or kvpress.SnapKVPress."
            )
        object.__setattr__(self, "press", copy.deepcopy(self.press))

    def scores(self, entries: Entries) -> Tensor:
        """Score entries as the press does, (batch, kv_heads, n).

        Raises:
            MissingInputError: the call of the attention was not captured.
            UnsupportedModelError: a row has padding between its tokens, or part of a head is not rotated.
        """
        whole = self._scores_of_layer(entries.context)
        every = _call(entries.context).layer.index[..., -whole.shape[-1] :].contiguous()
        return whole.gather(2, torch.searchsorted(every, entries.index.contiguous()))

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        held = len(_call(entries.context).layer)
        self.press.compression_ratio = (len(entries) - keep) / held
        return top(self.checked_scores(entries), keep)

    def describe(self) -> dict[str, object]:
        """Return the name of the press and its plain settings."""
        settings = {name: value for name, value in vars(self.press).items() if isinstance(value, _PLAIN)}
        settings.pop("compression_ratio", None)
        return {"press": type(self.press).__name__, **settings}

    def _scores_of_layer(self, context: Context) -> Tensor:
        """Score every entry of the layer except the padding in front, (batch, kv_heads, N)."""
        call, rope = _call(context), context.rope
        assert rope is not None
        front = call.padding[0]  # equal in all rows of a method's call
        if front is None:
            raise UnsupportedModelError(
                "A press does not support padding between the tokens of a row: answer the rows of this batch one at a "
                "time."
            )
        layer = call.layer.slice(front, len(call.layer))
        states = call.states[:, -len(layer) :]
        if 2 * len(rope.frequencies) != layer.keys.shape[-1]:
            raise UnsupportedModelError(
                "A press rotates whole heads, but this model rotates a part of each: choose a method of this package."
            )
        angles = layer.present[:, 0, -states.shape[1] :]
        kwargs = {
            "hidden_states": states,
            "position_embeddings": _rotation(rope, angles, states),
            "cache_position": torch.arange(len(layer) - states.shape[1], len(layer), device=states.device),
            "past_key_values": None,
        }
        module = _module(call, rope, context)
        scores = self.press.score(module, states, layer.keys, layer.values, None, kwargs)
        if not isinstance(scores, Tensor) or scores.shape != layer.keys.shape[:3]:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise MethodError(
                f"{type(self.press).__name__}.score() returned {found}: "
                f"return one score per entry, (batch, kv_heads, n) = {tuple(layer.keys.shape[:3])}."
            )
        return scores.float()


def _call(context: Context) -> AttentionCall:
    if context.attention is None:
        raise MissingInputError("A press needs the attention module: run it inside compress() on a model.")
    return context.attention


def _rotation(rope: Rope, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin of a rotation to positions (…, n, 3), (…, n, head_dim) each, in the dtype of `like`."""
    angles = positions[..., rope.axes.to(positions.device)].float() * rope.frequencies.to(positions.device)
    angles = torch.cat([angles, angles], dim=-1)
    return (angles.cos() * rope.scale).to(like), (angles.sin() * rope.scale).to(like)


def _module(call: AttentionCall, rope: Rope, context: Context) -> SimpleNamespace:
    """Return the parts of an attention module that presses read, in the form of kvpress's Llama.

    kvpress applies the norms of queries and keys in two families by the type of their modules; here the projections
    include them.
    """
    module: Any = call.module
    heads, width = call.layer.keys.shape[1], call.layer.keys.shape[-1]
    shared = module.num_key_value_groups

    def project_keys(states: Tensor) -> Tensor:
        keys = module.k_proj(states).unflatten(-1, (heads, width))
        return (module.k_norm(keys) if hasattr(module, "k_norm") else keys).flatten(-2)

    config = SimpleNamespace(
        num_attention_heads=heads * shared,
        num_key_value_heads=heads,
        num_hidden_layers=context.layers,
        head_dim=width,
        hidden_size=call.states.shape[-1],
        _attn_implementation=module.config._attn_implementation,
    )
    return SimpleNamespace(
        config=config,
        layer_idx=context.layer,
        head_dim=width,
        num_key_value_groups=shared,
        scaling=module.scaling,
        q_proj=lambda states: projected_queries(module, states, heads, width).flatten(-2),
        k_proj=project_keys,
        v_proj=module.v_proj,
        o_proj=module.o_proj,
        rotary_emb=lambda like, ids: _rotation(rope, ids[..., None].expand(*ids.shape, 3), like),
    )
