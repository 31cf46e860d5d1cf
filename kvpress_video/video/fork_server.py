"""Read videos in forked processes. They are forked from a server that has the modules imported and reads no video
itself.

For each video the reader sends two pipes and a socket to the fork server, which forks a process that runs
`isolation.serve` on the pipes. When that ends, the fork server writes its exit status to the socket; when the reader
closes its end of the socket, the fork server kills the process. It ends with its readers, and kills its children.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from select import select
from typing import IO, Any, NoReturn

from typing_extensions import Self

from .isolation import program, read_in, serve
from .source import VideoSource
from .video import Video

_PATIENCE = 10.0
"""Seconds to wait for the fork server to kill a process, or to end."""

_PARENT_DEATH_SIGNAL = 1
_FIRST_FREE = 3
_NO_STATUS = -int(signal.SIGKILL)
"""Exit status of a process that ended with its fork server."""


class ForkServer:
    """Reads any number of videos concurrently, each in its own process; starting one takes milliseconds."""

    def __init__(self) -> None:
        """Create it; the fork server starts with the first video, or with `start`."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start the fork server, without waiting until it is ready."""
        with self._lock:
            self._running()

    def read(self, video: VideoSource, *, memory: int, seconds: float, **reading: Any) -> Video:
        """Read frames of a video; see `read_untrusted` for results and errors."""
        return read_in(self._fork, video, memory, seconds, reading)

    def close(self) -> None:
        """End the fork server and all processes that still read."""
        with self._lock:
            self._end()

    def _fork(self) -> _Forked:
        with self._lock:
            try:
                return self._asked()
            except OSError:  # it died after the last video
                self._end()
                return self._asked()

    def _asked(self) -> _Forked:
        control, process = self._running()
        stdin, request = os.pipe()
        reply, stdout = os.pipe()
        leash, far = socket.socketpair()
        forked = _Forked(os.fdopen(request, "wb"), os.fdopen(reply, "rb"), leash, process)
        try:
            socket.send_fds(control, [b"+"], [stdin, stdout, far.fileno()])
        except OSError:
            forked.close()
            raise
        finally:
            os.close(stdin)
            os.close(stdout)
            far.close()
        return forked

    def _running(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._end()
            self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with far:
                # Threads of numpy's linear algebra would not live on in forked processes, which need none.
                one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
                command = program(__name__, "fork_on_demand")
                self._process = subprocess.Popen(command, stdin=far.fileno(), start_new_session=True, env=one_thread)
        return self._control, self._process

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class _Forked:
    """A forked process, as seen by the reader."""

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes], leash: socket.socket, server: Any) -> None:
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._leash, self._server = leash, server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pipes; the process is killed if it still runs."""
        for pipe in (self.stdin, self.stdout):
            with suppress(OSError):  # unwritten data is no longer needed
                pipe.close()  # type: ignore[union-attr]
        self._leash.close()

    def kill(self) -> None:
        """Have the process killed; if that fails, kill the fork server."""
        with suppress(OSError):
            self._leash.shutdown(socket.SHUT_WR)
            if not select([self._leash], [], [], _PATIENCE)[0]:
                self._server.kill()

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        told = self._leash.recv(4)
        return int.from_bytes(told, "big", signed=True) if told else _NO_STATUS


def fork_on_demand() -> None:
    """Main loop of the fork server, with a socket as standard input."""
    for module in ("av.subtitles.stream", "av.video.reformatter", "numpy.ma"):  # imported late while reading
        import_module(module)
    _Children(socket.socket(fileno=os.dup(0))).run()


class _Children:
    """The processes of a fork server, each with a socket; when the other end closes, it is killed."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._selector = control, selectors.DefaultSelector()
        self._leashes: dict[int, socket.socket] = {}
        self._prctl = getattr(ctypes.CDLL(None), "prctl", None)  # available on Linux

    def run(self) -> None:
        """Fork until all readers have disconnected, then kill the remaining processes."""
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        self._watch(woken, lambda: self._reap(woken))
        self._watch(self._control, self._fork)
        while self._control.fileno() >= 0:
            for key, _ in self._selector.select():
                key.data()
        for pid in self._leashes:
            os.kill(pid, signal.SIGKILL)

    def _watch(self, link: socket.socket, then: Callable[[], None]) -> None:
        self._selector.register(link, selectors.EVENT_READ, then)

    def _fork(self) -> None:
        asked, descriptors, *_ = socket.recv_fds(self._control, 1, 3)
        if not asked:
            self._selector.unregister(self._control)
            self._control.close()
            return
        stdin, stdout, far = descriptors
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._read(parent, stdin, stdout)
        os.close(stdin)
        os.close(stdout)
        leash = self._leashes[pid] = socket.socket(fileno=far)
        self._watch(leash, lambda: self._kill(pid, leash))

    def _read(self, parent: int, stdin: int, stdout: int) -> NoReturn:
        """Main function of a forked process: close what belongs to others, read one video, and end."""
        status = 1
        try:
            if self._prctl is not None:
                self._prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.closerange(_FIRST_FREE, os.sysconf("SC_OPEN_MAX"))
            if os.getppid() == parent:  # otherwise it died before its death signal was set
                serve()
                status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def _kill(self, pid: int, leash: socket.socket) -> None:
        if self._leashes.get(pid) is leash:  # not reaped: the process id is still valid
            self._selector.unregister(leash)
            os.kill(pid, signal.SIGKILL)

    def _reap(self, woken: socket.socket) -> None:
        woken.recv(4096)
        while self._leashes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._leashes.pop(pid) as leash, suppress(OSError):  # the reader may be gone
                if leash in self._selector.get_map():
                    self._selector.unregister(leash)
                leash.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
