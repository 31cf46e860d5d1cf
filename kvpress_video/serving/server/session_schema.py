"""Requests to session routes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from .openai_schema import Strict
from .served_session import ServedSession
from .settings import check_capped


class OpenSession(Strict):
    """Settings of a new session, or the name of a saved one."""

    method: str | None = Field(None, max_length=500)
    budget: int | str | None = None
    fps: float = Field(2.0, gt=0, le=1000)
    system: str | None = Field(None, max_length=1 << 14)
    keep_turns: int | Literal["all"] = 4
    positions: Literal["compact", "keep"] = "compact"
    labels: Literal["spread", "drop"] = "spread"
    saved: str | None = Field(None, max_length=100)

    def arguments(self, method: str, budget: int | str) -> dict[str, Any]:
        """Return the arguments of `VideoSession`, with the server's method and budget as defaults.

        Raises:
            BudgetError: the method keeps everything.
            UnknownNameError: there is no such method or setting.
        """
        check_capped(self.method or method)
        named = {name: getattr(self, name) for name in ("fps", "system", "keep_turns", "positions", "labels")}
        return {"method": self.method or method, "budget": budget if self.budget is None else self.budget, **named}


class PushVideo(Strict):
    """A video to append, by URL."""

    url: str = Field(min_length=1)
    fps: float | None = Field(None, gt=0, le=1000)
    start: float | None = Field(None, ge=0)
    end: float | None = Field(None, gt=0)


class Ask(Strict):
    """A question to a session."""

    question: str = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    keep: bool = True
    stream: bool = False


def summary(served: ServedSession) -> dict[str, Any]:
    """Describe the location of a session, its memory, and the progress that would survive a crash."""
    live = served.session is not None
    savable = served.session is None or served.session.savable  # sessions not in memory are in a file
    saved = None if served.saved is None else asdict(served.saved)
    need = served.need if live else 0
    where = {"live": live, "reserved_bytes": need, "savable": savable, "saved": saved}
    return {"id": served.id, "object": "session", **where} | lost(served)


def lost(served: ServedSession) -> dict[str, Any]:
    """Tell a client what it was told of and the session lacks, because its server was killed; nothing where it lacks
    nothing.
    """
    return {} if served.lost is None else {"lost": asdict(served.lost)}


def described(served: ServedSession) -> dict[str, Any]:
    """Describe a session in memory."""
    session = served.live
    stats = session.stats
    names = ("frames", "waiting", "seconds", "visual_tokens", "text_entries", "bytes", "peak_bytes", "evicted_turns")
    turns = [turn._asdict() for turn in session.turns]
    layers, stream = session.stream.layers, session.stream
    stock = sum(layer.stock_bytes for layer in layers) if layers[0].physical else 0
    sizes = {"cap_bytes": stream.planned_bytes, "stock_bytes": stock + stream.uncompressed_bytes}
    more = {"entries": max(stats.entries), "turns": turns, **sizes}
    return summary(served) | {name: getattr(stats, name) for name in names} | more
