"""Check that the tensors of a snapshot are consistent with its state and the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..compressor.entries import Grid, Kind, Places, Tags
from ..models.base import Adapter
from .consistency import Contradiction, conflict, entries
from .conversation import ConversationState
from .frame_queue import TIME_LIMIT
from .frame_tokens import VIDEO
from .state import PARTS, SessionState, StreamState
from .tensor_file import TensorSpec
from .turn_eviction import departure

TIMES, FRAMES = "waiting.times", "waiting.frames"


def check_specs(state: SessionState, adapter: Adapter, found: Mapping[str, TensorSpec]) -> None:
    """Check names, shapes and dtypes, without reading any tensor.

    Args:
        state: a checked state.
        adapter: adapter of the model.
        found: names, shapes and dtypes of the tensors; the number of queued frames is taken from them.

    Raises:
        Contradiction: a tensor is missing or unexpected, or has another shape or dtype; the message names it.
    """
    wanted = _wanted(state, adapter, found.get(TIMES))
    for name in sorted(wanted.keys() ^ found.keys()):
        raise Contradiction(f"{'lacks the tensor' if name in wanted else 'has an unexpected tensor,'} {name}")
    for name, spec in wanted.items():
        if found[name] != spec:
            raise Contradiction(f"has {name} as {found[name].shape} {found[name].dtype}, not {spec.shape} {spec.dtype}")
    queued, steps = found[TIMES].shape[0] if TIMES in found else 0, state.stream.timeline.frames
    if not steps <= state.queue.count - queued <= adapter.frames_per_step * steps:
        conflict(
            "facts.session.inbox.count",
            f"is {state.queue.count}, but {queued} are queued and {steps} temporal steps cached",
        )


def _wanted(state: SessionState, adapter: Adapter, times: TensorSpec | None) -> dict[str, TensorSpec]:
    stream, dtypes = state.stream, adapter.cache_dtypes
    places = Places.COMPACT_WIDTH if state.config.positions == "compact" else Places.WIDTH
    widths = (adapter.head_dim, adapter.head_dim, Tags.WIDTH, places)
    kinds = tuple(zip(PARTS, widths, (*dtypes, torch.int32, torch.float32), strict=True))
    wanted = {
        f"layers.{layer}.{part}": TensorSpec((1, adapter.kv_heads, length, width), kind)
        for layer in range(len(stream.rows))
        if (length := entries(stream, layer))
        for part, width, kind in kinds
    }
    if stream.logical:
        others = adapter.uncompressed_states(stream.logical)
        wanted |= {f"others.{name}": TensorSpec(shape, kind) for name, (shape, kind) in others.items()}
    if times and math.prod(times.shape):
        wanted[FRAMES] = TensorSpec((times.shape[0], *(state.queue.size or ()), 3), torch.uint8)
        wanted[TIMES] = TensorSpec(times.shape[:1], torch.float64)
    return wanted


def by_size(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split names of tensors into small tensors, to check before reading the others, and the others."""
    ordered = sorted(names)
    small = [name for name in ordered if name.endswith((".tags", TIMES))]
    return small, [name for name in ordered if name not in small]


def check_tensor(name: str, tensor: Tensor, state: SessionState) -> None:
    """Check the values of a tensor.

    Args:
        name: name of the tensor in a snapshot.
        tensor: the tensor, with a checked shape and dtype.
        state: a checked state.

    Raises:
        Contradiction: values disagree; the message names the tensor and the conflict.
    """
    kind = name.rpartition(".")[2]
    if kind == "tags":
        _check_tags(name, tensor[0], state.stream, int(name.split(".")[1]))
        _check_turns(name, tensor[0], state.conversation)
    elif kind == "places":
        _check_places(name, tensor, state.stream.rows[0].following or 0)
    elif kind in ("keys", "values", "conv", "recurrent") and not tensor.isfinite().all():
        conflict(name, "holds NaN or infinity")
    elif name == TIMES:
        _check_times(tensor, state)


def _check_tags(name: str, tags: Tensor, stream: StreamState, layer: int) -> None:
    """Check tags, (kv_heads, entries, Tags.WIDTH) int32."""
    row, grid = stream.rows[layer], stream.timeline.grid or Grid(0, 0, 0)
    held, index, visual = row.held.get(VIDEO, 0), tags[..., Tags.INDEX].long(), tags[..., Tags.KIND] == Kind.VIDEO
    label = tags[..., Tags.KIND] == Kind.LABEL
    if (index.diff(dim=-1) <= 0).any() or (index < 0).any() or (index >= stream.logical).any():
        conflict(name, f"must have ascending token indices from 0 to {stream.logical - 1}")
    if (~(visual | label) & (tags[..., Tags.KIND] != Kind.TEXT)).any() or (visual.sum(-1) != held).any():
        conflict(name, f"must have {held} video entries per head, and otherwise labels and text")
    wanted = [frame for frame, tokens in row.labels.get(VIDEO, {}).items() for _ in range(tokens)]
    if any(head[mask][:, Tags.SEGMENT : Tags.ROW].tolist() != [[VIDEO, frame] for frame in wanted]
           for head, mask in zip(tags, label, strict=True)):  # fmt: skip
        conflict(name, f"must have the {len(wanted)} label entries of its row in every head, in the order of frames")
    limits = tags.new_tensor([VIDEO + 1, *grid])
    seen, text = tags[visual][:, Tags.SEGMENT :], tags[~visual & ~label][:, Tags.SEGMENT :]
    if (seen < 0).any() or (seen >= limits).any() or (text != -1).any():
        conflict(name, f"has frames, rows or columns outside {grid.frames}×{grid.rows}×{grid.columns}")
    start = row.starts.get(VIDEO)
    if start is not None and not visual[:, start : start + held].all():
        conflict(name, f"has text among the {held} video entries from slot {start}")


def _check_turns(name: str, tags: Tensor, conversation: ConversationState) -> None:
    """Check that all text of evictable turns is present."""
    leaves = departure(conversation.tokens, len(conversation.tokens))
    index, text = tags[..., Tags.INDEX], tags[..., Tags.KIND] == Kind.TEXT
    held = index < 0
    for start, stop in leaves.ranges:
        held |= text & (index >= start) & (index < stop)
    if (held.sum(-1) != leaves.tokens).any():
        conflict(name, f"lacks some of the {leaves.tokens} text entries of its turns")


def _check_places(name: str, places: Tensor, following: int) -> None:
    positions = torch.cat([places[..., Places.ORIGINAL], places[..., Places.IMPORTANCE + 1 :]], dim=-1)
    if not positions.isfinite().all():
        conflict(name, "has positions that are not finite")
    if places[..., Places.IMPORTANCE].isinf().any():  # NaN if not captured
        conflict(name, "has infinite importance")
    present = places[..., Places.PRESENT if places.shape[-1] == Places.COMPACT_WIDTH else Places.ORIGINAL]
    if (present < 0).any() or (present > following).any():
        conflict(name, f"has positions outside 0 to {following}")


def _check_times(times: Tensor, state: SessionState) -> None:
    queue, timeline = state.queue, state.stream.timeline
    after = timeline.last.seconds if timeline.last else -TIME_LIMIT - 1
    steps = torch.cat([times.new_tensor([after]), times]).diff()
    if not (steps > 0).all() or times[-1] != queue.last_time:
        conflict(TIMES, f"must ascend from the last cached frame to inbox.last_time, {queue.last_time}")
