"""Schema of the JSON in a session file: types and ranges of every value, and the conversion from and to a state.

Aliases are names of format version 2; fields with defaults were added in version 3. Imported only where sessions are
saved and loaded, as is pydantic.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..cache.forward_pass import RowState
from ..cache.quantization import UNQUANTIZED
from ..compressor.entries import Grid
from ..errors import CacheError, KVPressVideoError, UnknownNameError
from ..models.fingerprint import Fingerprint
from .config import SessionConfig
from .conversation import ConversationState, Turn
from .frame_queue import TIME_LIMIT, QueueState
from .position_gaps import Gap
from .position_rescaling import Run
from .state import SessionState, StreamState
from .timeline import Moment, Timeline
from .turn_eviction import Opening, TokenRange, TurnTokens

_WHOLE_LIMIT = 2**53  # largest integer that every JSON reader preserves
_SIDE_LIMIT = 2**14  # pixels


def is_plain(value: Any) -> bool:
    """Return whether a value survives JSON unchanged, except that tuples become lists."""
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_plain(item) for name, item in value.items())
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _plain(value: Any) -> Any:
    if not is_plain(value):
        raise ValueError("should be a finite number, text, true, false, null, or a list or an object of these")
    return value


def _budget(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool) and value <= _WHOLE_LIMIT
    if not (value is None or isinstance(value, str) or whole):
        raise ValueError(f"should be a whole number up to {_WHOLE_LIMIT}, text or null")
    return value


Count = Annotated[int, Field(ge=0, le=_WHOLE_LIMIT)]
Positive = Annotated[int, Field(ge=1, le=_WHOLE_LIMIT)]
Side = Annotated[int, Field(ge=1, le=_SIDE_LIMIT)]
Seconds = Annotated[float, Field(ge=-TIME_LIMIT, le=TIME_LIMIT)]
Position = Annotated[float, Field(ge=0, le=_WHOLE_LIMIT)]
Plain = Annotated[Any, AfterValidator(_plain)]
GridSizes = tuple[Positive, Positive, Positive]
Indices = tuple[Count, Count]


class _Model(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, from_attributes=True
    )


class ConfigModel(_Model):
    """Arguments of `VideoSession`; further names are settings of the method."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]

    method: str
    budget: Annotated[Any, AfterValidator(_budget)]
    positions: Literal["keep", "compact"]
    chunk: Positive
    fps: float
    system: str | None
    text_room: Count
    position_limit: Positive | None
    bank_on: str
    labels: Literal["spread", "keep", "drop"] = "spread"
    keep_turns: Count | Literal["all"] = "all"
    quantize: str = UNQUANTIZED
    experts: Positive | None = None

    def build(self) -> SessionConfig:
        """Convert to the arguments of a session.

        Raises:
            CacheError: the arguments are invalid.
            UnknownNameError: the method, or a setting of it, is not installed.
        """
        named = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return SessionConfig(**named, settings=dict(self.__pydantic_extra__))
        except UnknownNameError:
            raise
        except (KVPressVideoError, TypeError, ValueError, ArithmeticError) as error:
            raise CacheError(f"facts.session.recipe: {error}") from error


class RowModel(_Model):
    """A `RowState` of a stream."""

    padding: Count
    held: dict[Count, Count]
    seen: dict[Count, Count]
    grids: dict[Count, GridSizes]
    starts: dict[Count, Count]
    labels: dict[Count, dict[Count, Positive]] = Field(default_factory=dict)
    labels_seen: dict[Count, Count] = Field(default_factory=dict)
    loose: bool
    shift: Count
    following: Count

    def build(self) -> RowState:
        """Convert to a row."""
        grids = {segment: Grid(*sizes) for segment, sizes in self.grids.items()}
        return RowState(
            self.padding,
            self.held,
            self.seen,
            grids,
            self.starts,
            self.labels,
            self.labels_seen,
            loose=self.loose,
            shift=self.shift,
            following=self.following,
        )


class RunModel(_Model):
    """A `Run`."""

    start: Count
    end: Count
    least: Positive


class MomentModel(_Model):
    """A `Moment`."""

    position: Position
    seconds: Seconds
    frame: Count

    def build(self) -> Moment:
        """Convert to a moment."""
        return Moment(self.position, self.seconds, self.frame)


class TimelineModel(_Model):
    """A `Timeline`."""

    spatial: bool
    grid: GridSizes | None
    runs: tuple[RunModel, ...]
    base: MomentModel | None
    last: MomentModel | None
    labelled: bool = False
    gaps: tuple[tuple[Count, Positive], ...] = ()

    def build(self) -> Timeline:
        """Convert to a timeline."""
        runs = tuple(Run(run.start, run.end, run.least) for run in self.runs)
        base = None if self.base is None else self.base.build()
        last = None if self.last is None else self.last.build()
        gaps, grid = tuple(Gap(*gap) for gap in self.gaps), self.grid and Grid(*self.grid)
        return Timeline(self.spatial, grid, runs, base, last, self.labelled, gaps)


class StreamModel(_Model):
    """A `StreamState`."""

    logical: Count
    rows: tuple[RowModel, ...]
    timeline: TimelineModel
    peak_bytes: Count
    evicted_text: Count = 0

    def build(self) -> StreamState:
        """Convert to the state of a stream."""
        rows = tuple(row.build() for row in self.rows)
        return StreamState(self.logical, rows, self.timeline.build(), self.peak_bytes, self.evicted_text)


class OpeningModel(_Model):
    """An `Opening`."""

    tokens: Indices
    closes_video: bool

    def build(self) -> Opening:
        """Convert to the markup before a question."""
        return Opening(TokenRange(*self.tokens), self.closes_video)


class TurnTokensModel(_Model):
    """The tokens of a turn."""

    opening: OpeningModel
    text: Indices
    reopening: Indices | None

    def build(self) -> TurnTokens:
        """Convert to the tokens of a turn."""
        reopening = None if self.reopening is None else TokenRange(*self.reopening)
        return TurnTokens(self.opening.build(), TokenRange(*self.text), reopening)


class ConversationModel(_Model):
    """A `ConversationState`."""

    turns: tuple[tuple[str, str], ...]
    begun: bool
    watching: bool
    unsaid: tuple[Count, ...]
    tokens: tuple[TurnTokensModel, ...] = ()
    opening: OpeningModel | None = None
    evicted: Count = 0

    def build(self) -> ConversationState:
        """Convert to the state of a conversation."""
        return ConversationState(
            tuple(Turn(*turn) for turn in self.turns),
            self.begun,
            self.watching,
            self.unsaid,
            tuple(turn.build() for turn in self.tokens),
            None if self.opening is None else self.opening.build(),
            self.evicted,
        )


class QueueModel(_Model):
    """A `QueueState`."""

    count: Count
    last_time: Seconds | None
    size: tuple[Side, Side] | None
    anchor: Seconds = Field(alias="told")
    since: Count = Field(alias="untold")

    def build(self) -> QueueState:
        """Convert to the state of a queue."""
        return QueueState(self.count, self.last_time, self.size, self.anchor, self.since)


class SessionModel(_Model):
    """A `SessionState`."""

    config: ConfigModel = Field(alias="recipe")
    stream: StreamModel
    conversation: ConversationModel = Field(alias="talk")
    queue: QueueModel = Field(alias="inbox")

    def build(self) -> SessionState:
        """Convert to the state of a session, with the errors of `ConfigModel.build`."""
        return SessionState(self.config.build(), self.stream.build(), self.conversation.build(), self.queue.build())

    @classmethod
    def of(cls, state: SessionState) -> SessionModel:
        """Convert the state of a session."""
        return cls(
            recipe=ConfigModel(**state.config.arguments),
            stream=StreamModel.model_validate(state.stream, strict=False),
            talk=ConversationModel.model_validate(state.conversation, strict=False),
            inbox=QueueModel.model_validate(state.queue, strict=False),
        )


class FileModel(_Model):
    """All JSON of a file."""

    session: SessionModel
    model: Fingerprint


def dump(state: SessionState, model: Fingerprint) -> str:
    """Write the JSON of a session.

    Raises:
        CacheError: a value is out of the schema's range.
    """
    with _explained():
        written = FileModel(session=SessionModel.of(state), model=model)
    return json.dumps(written.model_dump(mode="json", by_alias=True), allow_nan=False)


def parse(text: str) -> tuple[SessionModel, Fingerprint]:
    """Read the JSON of a session.

    Raises:
        CacheError: it does not fit the schema; names the first value that does not and its place.
    """
    with _explained():
        found = FileModel.model_validate_json(text)
        return found.session, found.model


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part:.40}" for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        problem = f" {reason}, not {reprlib.repr(first['input'])}" if reason.startswith("should") else f": {reason}"
        raise CacheError(f"facts{place}{problem}") from error
