"""Settings of a server, checked before the model is loaded."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from ...budget import Budget
from ...compressor.registry import make_method
from ...errors import BudgetError, UnknownNameError
from .addresses import HostRules
from .media import MediaLimits

MIB = 1 << 20


@dataclass(frozen=True)
class ServerSettings:
    """Options of `kvpress-video serve`.

    Attributes:
        method, budget: those of completions, and the defaults of sessions.
        chunk: visual tokens of a prompt that completions prefill at a time; None for a third of the budget.
        host, port: address to listen on; hosts other than loopback need keys.
        keys: API keys; without any, every local client may connect.
        memory: bytes for weights, caches, frames and pixels; None for the weights and half of the free memory.
        hosts: rules for addresses to fetch media from.
        folders: folders whose files may be read by path.
        sources: `"host"` or `"host:port"` from which live streams may be read.
        sessions: folder for saved sessions; None for a temporary one.
        shared: whether other servers of the same model use the folder too.
        limits: limits on media.
        queue: maximum number of requests that wait for memory.
        batch: maximum number of answers decoded as one batch.
        save_every: seconds between saves of changed sessions, if there is a folder for them.
        idle: seconds after which an unused session is detached to disk.
        most_sessions: maximum number of open sessions, detached ones included.
        session_text: maximum number of text entries of a session, per layer and KV head.
        max_tokens: maximum length of an answer in tokens.
        body: maximum size of a request body in bytes.
        body_seconds: time limit for a request body to arrive.
        grace: seconds for requests in flight to finish when the server ends.

    Raises:
        BudgetError: the budget is a ratio, or the method keeps everything.
        UnknownNameError: the method is unknown, a folder is missing, or another host than loopback has no keys.
    """

    method: str = "infinipot-v"
    budget: str | int = 6144
    chunk: int | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    memory: int | None = None
    hosts: HostRules = field(default_factory=HostRules)
    folders: tuple[Path, ...] = ()
    sources: frozenset[str] = frozenset()
    sessions: Path | None = None
    shared: bool = False
    limits: MediaLimits = field(default_factory=MediaLimits)
    queue: int = 64
    batch: int = 8
    save_every: float = 30.0
    idle: float = 60.0
    most_sessions: int = 256
    session_text: int = 2048
    max_tokens: int = 1024
    body: int = 96 * MIB
    body_seconds: float = 60.0
    grace: int = 30

    def __post_init__(self) -> None:
        check_capped(self.method)
        Budget.parse_cap(self.budget)
        if not self.keys and not is_loopback(self.host):
            raise UnknownNameError(
                f"Listening on {self.host} lets other machines in: give API keys (--api-key-file), or listen on "
                "127.0.0.1."
            )
        for folder in self.folders:
            if not folder.is_dir():
                raise UnknownNameError(f"There is no folder {folder} to read videos from.")


def check_capped(method: str) -> None:
    """Check that a method caps its cache, since memory is reserved by the cap.

    Raises:
        BudgetError: it keeps everything.
        UnknownNameError: there is no such method or setting.
    """
    if make_method(method).keeps_all:
        raise BudgetError(f"{method!r} keeps everything: a server needs a method with a budget, to know its memory.")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: Path) -> tuple[str, ...]:
    """Read API keys from a file, one per line, skipping empty lines and lines that begin with #.

    Raises:
        UnknownNameError: the file cannot be read, other users may read it, it contains no key, or a key has fewer than
            16 characters.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
        public = os.name == "posix" and path.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise UnknownNameError(f"The API keys in {path} cannot be read: {error}.") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if public:
        raise UnknownNameError(f"Other users may read the API keys in {path}: chmod 600 {path}.")
    if not keys or min(map(len, keys)) < 16:
        raise UnknownNameError(f"{path} must contain API keys of at least 16 characters, one per line.")
    return keys
