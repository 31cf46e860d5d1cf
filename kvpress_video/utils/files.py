"""Write files atomically: a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST_NAME = 255  # bytes
_NAME_BYTES = 200  # of the target's name in a temporary name, which may take 255 in all


@contextmanager
def atomic_write(path: Path, *, mode: int | None = None, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` if the block ends without an error.

    An existing file keeps its permissions and owner; a symlink stays one, and its target is replaced. Temporary files
    of the same target whose writers were killed are removed.

    Args:
        path: a regular file or a free name, in a folder that exists.
        mode: permissions of a new file; 0666 less the umask by default.
        durable: fsync the file and its folder, so that both survive a power failure.

    Raises:
        OSError: the file cannot be written, or `path` is a folder, a device or a pipe; `filename` is `path`.
    """
    existing = _existing(path)
    if existing and (kind := irregular_kind(path)):
        raise OSError(errno.EINVAL, f"It is {kind}, not a regular file", str(path))
    target = Path(os.path.realpath(path))
    prefix = f".{os.fsencode(target.name)[:_NAME_BYTES].decode(errors='ignore')}."
    scratch = target.with_name(f"{prefix}{os.getpid()}.{uuid4().hex[:8]}.tmp")
    created = 0o600 if existing else 0o666 if mode is None else mode
    try:
        _remove_abandoned(target.parent, prefix)
        with _created(scratch, created):
            yield scratch
            if existing:
                _take_over(existing, scratch)
            if durable:
                _fsync(scratch, os.O_RDWR)
            os.replace(scratch, target)
        if durable and os.name == "posix":
            _fsync(target.parent, os.O_RDONLY)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(scratch), scratch, str(target.parent)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_target(path: Path) -> None:
    """Check in advance that a result can be written to a file; its folder need not exist.

    Raises:
        OSError: `path` is a folder, a device or a pipe, has an invalid name, or is not in a writable folder.
    """
    if kind := irregular_kind(path):
        raise OSError(errno.EINVAL, f"It is {kind}, not a regular file", str(path))
    target = Path(os.path.realpath(path))
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in target.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    folder = next(folder for folder in target.parents if os.path.lexists(folder))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"The folder {folder} may not be written", str(path))


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OSError: it cannot be made; `filename` is `path` or the parent that prevents it.
    """
    _existing(path)
    path.mkdir(parents=True, exist_ok=True)


def irregular_kind(path: Path) -> str | None:
    """Describe a path that exists and is not a regular file; None for a regular file or a free name.

    Raises:
        OSError: the path cannot be looked up: it is too long, contains a NUL character, or is not accessible.
    """
    found = _existing(path)
    if found is None or stat.S_ISREG(found.st_mode):
        return None
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a device or pipe"


def _existing(path: Path) -> os.stat_result | None:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "A path cannot hold a NUL character", str(path))
    try:
        return path.stat()
    except FileNotFoundError:
        return None


@contextmanager
def _created(scratch: Path, mode: int) -> Iterator[None]:
    """Create a file and hold its lock, which shows that its writer is alive; remove leftovers at the end."""
    try:
        descriptor = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        with os.fdopen(descriptor) as lock:
            if fcntl:
                with suppress(OSError):  # some network file systems have no locks
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                lock.close()  # Windows cannot rename an open file
            yield
    finally:
        scratch.unlink(missing_ok=True)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove temporary files whose process is gone and which no process of another container or host has locked."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.[0-9a-f]{8}\.tmp")
    if not fcntl:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = pattern.fullmatch(entry.name)
            if name and entry.is_file(follow_symlinks=False) and not _alive(int(name[1])):
                with suppress(OSError), open(entry, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _take_over(existing: os.stat_result, scratch: Path) -> None:
    """Copy the owner and permissions of a file to another."""
    if os.name == "posix":
        with suppress(OSError):  # only root may change the owner
            os.chown(scratch, existing.st_uid, existing.st_gid)
    scratch.chmod(stat.S_IMODE(existing.st_mode))


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
