"""Check that the state of a snapshot is consistent: its parts, its budget and the model agree."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NoReturn

from ..cache.byte_entries import layer_entries
from ..compressor.entries import Grid
from ..errors import CacheError
from ..models.base import Adapter
from .conversation import ConversationState
from .frame_queue import QueueState
from .frame_tokens import VIDEO
from .state import SessionState, StreamState
from .timeline import Timeline

_INDEX_LIMIT = 2**31  # token indices are int32
_OVERSHOOT = 2  # allowed multiple of the budget


class Contradiction(CacheError):
    """Parts of a snapshot disagree; the message continues the name of the file."""


def conflict(place: str, problem: str) -> NoReturn:
    """Raise Contradiction.

    Args:
        place: path of the value in the file.
        problem: description that continues the place.
    """
    raise Contradiction(f"is inconsistent ({place} {problem})")


def text_entries(stream: StreamState) -> int:
    """Return the text entries per layer and KV head, without labels: all text except evicted turns."""
    frames = sum(sum((*row.seen.values(), *row.labels_seen.values())) for row in stream.rows[:1])
    return stream.logical - frames - stream.evicted_text


def entries(stream: StreamState, layer: int) -> int:
    """Return the entries of a layer per KV head."""
    row = stream.rows[layer]
    return text_entries(stream) + row.visual + row.label_tokens


def check_state(state: SessionState, adapter: Adapter) -> None:
    """Check the host-side state of a session.

    Raises:
        Contradiction: values disagree; the message names the place in the file and the conflict.
    """
    stream, layers = state.stream, len(adapter.attentions)
    if len(stream.rows) != layers:
        raise Contradiction(f"describes {len(stream.rows)} layers, but the model has {layers}")
    _check_timeline(stream.timeline, bool(adapter.rope().axes.any()), adapter.labelled)
    _check_tokens(stream)
    for layer in range(layers):
        _check_row(stream, layer, adapter.omits_tokens)
    _check_conversation(state, adapter.text_model.config.vocab_size)
    _check_queue(state.queue, stream.timeline, state.config.fps)
    _check_budget(state, adapter)


def _check_timeline(timeline: Timeline, spatial: bool, labelled: bool) -> None:
    place, grid, runs, base, last = "stream.timeline", timeline.grid, timeline.runs, timeline.base, timeline.last
    if timeline.spatial != spatial:
        _state_conflict(
            f"{place}.spatial", f"is {timeline.spatial}, but the model has {'M-RoPE' if spatial else '1-D'} positions"
        )
    for number, (gap_before, gap) in enumerate(pairwise(((0, 0), *timeline.gaps))):
        if not gap_before[1] <= gap[0] < gap[1]:
            _state_conflict(f"{place}.gaps[{number}]", f"is {list(gap)}, but must ascend from {gap_before[1]}")
    if timeline.labelled != labelled:
        _state_conflict(f"{place}.labelled", f"is {timeline.labelled}, unlike in the model's family")
    if grid is None or last is None or not runs:
        if grid or last or runs or base:
            _state_conflict(place, "must have all of grid, runs and last, or none")
        return
    for number, run in enumerate(runs):
        if run.end < run.start:
            _state_conflict(f"{place}.runs[{number}]", f"ends at {run.end}, before it starts at {run.start}")
        most = run.end - run.start if labelled else max(grid.rows, grid.columns)
        if run.least > most:
            _state_conflict(
                f"{place}.runs[{number}].least", f"is {run.least}, but frames are {grid.rows}×{grid.columns}"
            )
    for number, (before, run) in enumerate(pairwise(runs), 1):
        if run.start < before.end:
            _state_conflict(f"{place}.runs[{number}]", f"starts at {run.start}, before the end of the previous run")
    for number, gap in enumerate(timeline.gaps):
        if any(run.start < gap.end and gap.start < run.end for run in runs):
            _state_conflict(f"{place}.gaps[{number}]", "overlaps a run of frames")
    if last.frame != grid.frames - 1:
        _state_conflict(f"{place}.last.frame", f"is {last.frame}, but there are {grid.frames} frames")
    if not runs[-1].start - 1 <= last.position <= runs[-1].end:
        _state_conflict(f"{place}.last.position", f"is {last.position:g}, outside the last run")
    if base and (base.frame > last.frame or base.seconds > last.seconds or base.position > last.position):
        _state_conflict(f"{place}.base", "is later than last")
    if base and base.position < runs[-1].start - 1:
        _state_conflict(f"{place}.base.position", f"is {base.position:g}, before the start of the last run")


def _check_tokens(stream: StreamState) -> None:
    timeline, text = stream.timeline, text_entries(stream)
    if not 0 <= text <= stream.logical < _INDEX_LIMIT:
        other = f"{stream.logical - text - stream.evicted_text} visual tokens were seen"
        left = f", and {stream.evicted_text} text tokens were evicted" if stream.evicted_text else ""
        _state_conflict("stream.logical", f"is {stream.logical}, but {other}{left}")
    taken = sum(end - start for start, end in (*((run.start, run.end) for run in timeline.runs), *timeline.gaps))
    following = stream.rows[0].following or 0
    inside = timeline.labelled and not stream.rows[0].labels_seen  # labels are text inside runs
    due = following <= taken + text if inside else following == taken + text
    if not due or (timeline.runs and following < timeline.runs[-1].end):
        _state_conflict(
            "stream.rows[0].following", f"is {following}, but text takes {text} and runs take {taken} positions"
        )
    if timeline.gaps and timeline.gaps[-1].end > following:
        _state_conflict("stream.timeline.gaps", f"end at {timeline.gaps[-1].end}, after {following}")


def _tokens_seen(stream: StreamState, grid: Grid, omits: bool) -> int:
    """Return the visual tokens seen: all of the grid, or at least one per frame if the processor may omit some."""
    return min(max(stream.rows[0].seen.get(VIDEO, 0), grid.frames if omits else grid.tokens), grid.tokens)


def _check_row(stream: StreamState, layer: int, omits: bool) -> None:
    row, place, grid = stream.rows[layer], f"stream.rows[{layer}]", stream.timeline.grid
    grids: dict[int, Grid] = {} if grid is None else {VIDEO: grid}
    seen = {} if grid is None else {VIDEO: _tokens_seen(stream, grid, omits)}
    if row.padding or row.loose or row.shift:
        _state_conflict(place, "has padding or shifted positions, which sessions never have")
    if row.following != stream.rows[0].following:
        _state_conflict(f"{place}.following", f"is {row.following}, not {stream.rows[0].following} as in the first row")
    if row.grids != grids:
        _state_conflict(f"{place}.grids", f"is {dict(row.grids)}, but the timeline's grid is {grid}")
    if row.seen != seen:
        _state_conflict(f"{place}.seen", f"is {dict(row.seen)}, not {seen} as in the grid")
    for segment, held in row.held.items():
        if held > seen.get(segment, -1):
            _state_conflict(
                f"{place}.held", f"has {held} entries of segment {segment}, but {seen.get(segment, 0)} were seen"
            )
    _check_labels(stream, layer)
    for segment, start in row.starts.items():
        if segment not in row.held or start > text_entries(stream):
            _state_conflict(f"{place}.starts", f"places segment {segment} at {start}, which is impossible")


def _check_labels(stream: StreamState, layer: int) -> None:
    row, place, frames = stream.rows[layer], f"stream.rows[{layer}]", stream.timeline.frames
    if row.labels_seen != stream.rows[0].labels_seen or row.labels_seen.keys() - row.seen.keys():
        _state_conflict(
            f"{place}.labels_seen", "differs from that of the first row, or names segments that were not seen"
        )
    for segment, held in row.labels.items():
        if list(held) != sorted(held) or any(frame >= frames for frame in held):
            _state_conflict(f"{place}.labels", f"must have ascending frames below {frames}")
        if sum(held.values()) > row.labels_seen.get(segment, 0):
            _state_conflict(f"{place}.labels", f"have more than the {row.labels_seen.get(segment, 0)} tokens seen")


def _check_conversation(state: SessionState, vocabulary: int) -> None:
    conversation, stream, place = state.conversation, state.stream, "talk"
    if conversation.begun != (stream.logical > 0) or (conversation.turns and not conversation.begun):
        _state_conflict(f"{place}.begun", f"is {conversation.begun}, but {stream.logical} tokens were seen")
    base = stream.timeline.base
    if conversation.watching != (base is not None):
        _state_conflict(
            f"{place}.watching",
            f"is {conversation.watching}, but stream.timeline.base {'has no' if base is None else 'has a'} value",
        )
    if len(conversation.unsaid) > (most := int(conversation.begun and not conversation.watching)):
        _state_conflict(f"{place}.unsaid", f"has {len(conversation.unsaid)} tokens, but at most {most} can be pending")
    _check_turns(conversation, stream.logical)
    for token in conversation.unsaid:
        if token >= vocabulary:
            _state_conflict(f"{place}.unsaid", f"has token {token}, beyond the vocabulary of {vocabulary}")


def _check_turns(conversation: ConversationState, logical: int) -> None:
    """Check that the turns are inside the seen tokens, in order."""
    turns, opening, end = conversation.tokens, conversation.opening, 0
    if len(turns) > len(conversation.turns):
        _state_conflict("talk.tokens", f"locates {len(turns)} turns, but {len(conversation.turns)} were kept")
    for number, turn in enumerate(turns):
        parts = (turn.opening.tokens, turn.text, *([turn.reopening] if turn.reopening else []))
        for start, stop in parts:
            if not end <= start <= stop <= logical:
                _state_conflict(f"talk.tokens[{number}]", f"has tokens {start} to {stop}, which is impossible")
            end = stop
        if number and turns[number - 1].reopening is None and turn.opening.tokens.start != turns[number - 1].text.stop:
            _state_conflict(f"talk.tokens[{number}].opening", "does not begin at the end of the previous turn")
    if turns and turns[-1].reopening is None and conversation.watching:
        _state_conflict("talk.tokens", "lacks the markup between the last turn and the frames after it")
    if opening and (turns or conversation.watching or not opening.tokens.start <= opening.tokens.stop <= logical):
        _state_conflict("talk.opening", "has a value, but turns or frames followed")


def _check_queue(queue: QueueState, timeline: Timeline, fps: float) -> None:
    place, last = "inbox", timeline.last
    if queue.last_time is None or queue.size is None or not queue.count or not queue.since:
        if queue != QueueState():
            _state_conflict(place, "must have all of count, last_time, size and untold, or none")
    elif not math.isclose(queue.last_time, due := queue.anchor + (queue.since - 1) / fps, rel_tol=1e-12, abs_tol=1e-9):
        _state_conflict(f"{place}.last_time", f"is {queue.last_time}, but told and untold imply {due}")
    if timeline.frames > queue.count:
        _state_conflict(f"{place}.count", f"is {queue.count}, but {timeline.frames} temporal steps are cached")
    if last and (queue.last_time is None or last.seconds > queue.last_time):
        _state_conflict(f"{place}.last_time", f"is {queue.last_time}, before the last cached frame")


def _check_budget(state: SessionState, adapter: Adapter) -> None:
    stream, cap, layers = state.stream, state.config.cap, len(state.stream.rows)
    if cap.unit == "ratio":
        return
    counted = sum(row.visual + row.label_tokens for row in stream.rows)
    if cap.unit == "bytes":
        counted += layers * text_entries(stream)
    others = adapter.uncompressed_bytes(stream.logical)
    entry = state.config.storage.entry(adapter, state.config.positions == "compact")
    most = layers * layer_entries(cap, layers, entry.held, uncompressed=others)
    if counted > _OVERSHOOT * most:
        _state_conflict("stream.rows", f"hold {counted} entries in all layers, far above the budget of {cap}")


def _state_conflict(place: str, problem: str) -> NoReturn:
    conflict(f"facts.session.{place}", problem)
