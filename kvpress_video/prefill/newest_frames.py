"""Re-encode the newest frames of a prompt's videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..attention.masks import without_masks
from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..compressor.entries import Kind, Tags, is_visual
from ..models.base import Adapter
from .pass_reader import has_axes
from .reencoding import FrameStates, NewStates, encode_anew


def newest_anew(
    forward: Callable[..., Any],
    adapter: Adapter,
    layers: Sequence[CompressedLayer],
    kwargs: Mapping[str, Any],
    whole: ForwardPass,
    count: int,
) -> Iterator[NewStates]:
    """Yield new keys and values for the newest frames of each video, row by row.

    Args:
        forward: the text model's own forward.
        adapter: adapter of the model.
        layers: compressed layers, with the kept entries of the prompt's videos.
        kwargs: the text model's arguments for the prompt.
        whole: the tokens of the prompt.
        count: number of frames of each video.
    """
    embeddings, aligned = kwargs["inputs_embeds"], adapter.take_aligned(kwargs)
    aligned = embeddings[..., :0] if aligned is None else aligned
    for row, segment in _videos(whole):
        tags = whole.tags[row].cpu()
        kinds = tags[:, Tags.INDEX].long(), tags[:, Tags.FRAME].long(), is_visual(tags[:, Tags.KIND])
        states = FrameStates(*kinds, embeddings[row], aligned[row]).where(tags[:, Tags.SEGMENT] == segment)
        arguments = partial(_arguments, adapter, kwargs)
        made = encode_anew(forward, adapter, layers, row, states.newest(count), arguments, has_axes(kwargs))
        if made is not None:
            yield made


def _videos(whole: ForwardPass) -> Iterator[tuple[int, int]]:
    """Yield the row and the segment of each video of a pass."""
    for number, row in enumerate(whole.rows):
        tags = whole.tags[number]
        for segment in row.held:
            if bool(((tags[:, Tags.SEGMENT] == segment) & (tags[:, Tags.KIND] == Kind.VIDEO)).any()):
                yield number, segment


def _arguments(adapter: Adapter, kwargs: Mapping[str, Any], states: FrameStates) -> dict[str, Any]:
    arguments: dict[str, Any] = {**kwargs, "attention_mask": without_masks(kwargs.get("attention_mask"))}
    arguments.pop("cache_position", None)
    if states.aligned.shape[-1]:
        visual = states.visual[None].to(states.aligned.device)
        adapter.put_aligned(arguments, states.aligned[None], visual)
    if "logits_to_keep" in arguments:
        arguments["logits_to_keep"] = 0
    return arguments
