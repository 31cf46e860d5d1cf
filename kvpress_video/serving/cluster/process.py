"""One server of a cluster as a process: it is told what to serve on its standard input, and ends when that closes."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import KVPressVideoError

if TYPE_CHECKING:
    from ..server.settings import ServerSettings


@dataclass(frozen=True)
class Job:
    """What a server is to serve; picklable.

    Attributes:
        load: returns the model and its processor.
        name: of the model, as clients give it.
        settings: of the server, which share a folder.
    """

    load: Callable[[], tuple[Any, Any]]
    name: str
    settings: ServerSettings


def main() -> None:
    """Serve until SIGTERM, or until the parent has ended, and tell the parent when requests are accepted."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer to the parent

    def tell(**facts: str) -> None:
        print(json.dumps(facts), file=out, flush=True)

    pickled: bytes = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job: Job = pickle.loads(pickled)  # imports much
    from ..server.listening import listen
    from ..server.state import Server

    try:
        server = Server(job.name, *job.load(), job.settings)
    except KVPressVideoError as error:
        tell(error=str(error))
        sys.exit(2)
    listen(server, ready=lambda url: tell(server=server.sessions.claims.server, url=url))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
