"""Atomic writes: what stays of an existing file, what is refused, and what killed writers leave behind."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvpress_video.streaming.checkpoint import write_snapshot
from kvpress_video.sweep.results.export import write
from kvpress_video.utils.files import atomic_write, check_target, make_folder

DEAD = 99_999_999  # above any pid_max of Linux


def put(path: Path, text: str, **options: Any) -> None:
    with atomic_write(path, **options) as scratch:
        scratch.write_text(text)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask() -> Any:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_new_file_has_the_permissions_of_the_umask_or_those_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "usual", "text")
    put(tmp_path / "private", "text", mode=0o600)
    assert (mode_of(tmp_path / "usual"), mode_of(tmp_path / "private")) == (0o644, 0o600)


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664, 0o751])
@pytest.mark.parametrize("asked", [None, 0o600])
def test_an_existing_file_keeps_its_permissions(mode: int, asked: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    path.chmod(mode)
    put(path, "after", mode=asked)
    assert (path.read_text(), mode_of(path)) == ("after", mode)


def test_the_new_content_of_a_private_file_is_private_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    path.chmod(0o600)
    with atomic_write(path) as scratch:
        scratch.write_text("after")
        assert mode_of(scratch) == 0o600
    with atomic_write(tmp_path / "b", mode=0o600) as scratch:
        assert mode_of(scratch) == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    os.chown(path, 12345, 54321)
    put(path, "after")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_symlink_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").write_text("before")
    link, chain, dangling = (tmp_path / name for name in ("link", "chain", "dangling"))
    link.symlink_to("store/a")
    chain.symlink_to(link)
    dangling.symlink_to("store/b")
    put(chain, "after")
    put(dangling, "new")
    assert link.is_symlink()
    assert chain.is_symlink()
    assert dangling.is_symlink()
    assert (tmp_path / "store" / "a").read_text() == "after"
    assert (tmp_path / "store" / "b").read_text() == "new"
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file() and not file.is_symlink()) == ["a", "b"]


def refusal(path: Path) -> OSError:
    with pytest.raises(OSError, match=re.escape(repr(str(path)))) as caught:
        put(path, "text")
    assert caught.value.filename == str(path)
    return caught.value


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    pipe, folder, link = tmp_path / "pipe", tmp_path / "folder", tmp_path / "link"
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to("pipe")
    assert "device or pipe, not a regular file" in refusal(pipe).strerror
    assert "device or pipe, not a regular file" in refusal(link).strerror
    assert "a folder, not a regular file" in refusal(folder).strerror
    assert pipe.is_fifo()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "link", "pipe"]


@pytest.mark.skipif(not Path("/dev/null").is_char_device(), reason="no such device")
def test_a_device_is_never_replaced(tmp_path: Path, bundled: Any) -> None:
    """A device of the test's own where it may make one: as root, a rename would replace it."""
    from kvpress_video import CacheError, VideoSession
    from kvpress_video.errors import SweepError

    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        device = Path("/dev/null")
    assert "device or pipe" in refusal(device).strerror
    with pytest.raises(SweepError, match=r"Cannot write .*device or pipe"):
        write(device, b"text")
    with pytest.raises(CacheError, match="is a device or pipe: give the path of a file"):
        write_snapshot(device, VideoSession(*bundled, budget=20).snapshot(), bundled[0])
    assert device.is_char_device()


@pytest.mark.parametrize(
    ("name", "said"),
    [("a" * 256, "File name too long"), ("é" * 128, "File name too long"), ("a\0b", "cannot hold a NUL character")],
)
def test_names_that_no_file_can_have(name: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path / name).strerror
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127, "日" * 85, "*[a].kvv"])
def test_every_name_that_a_file_can_have(name: str, tmp_path: Path) -> None:
    for text in ("one", "two"):
        put(tmp_path / name, text)
    assert (tmp_path / name).read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_missing_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "missing" / "a").errno == errno.ENOENT
    assert refusal(tmp_path / "file" / "a").errno == errno.ENOTDIR


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from kvpress_video.utils.files import atomic_write, check_target, make_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with atomic_write(Path(sys.argv[1])) as scratch:
    scratch.write_bytes(bytes(5000))
"""


def test_a_disk_that_fills_up_names_the_file(tmp_path: Path) -> None:
    """The error of the write itself names none."""
    path = tmp_path / "a.html"
    path.write_text("before")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_errors_of_other_files_and_other_kinds_stay_as_they_are(tmp_path: Path) -> None:
    for error in (OSError(errno.ENOENT, "gone", "elsewhere"), OSError("no number"), KeyError("other")):
        with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "a"):
            raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_left_is_removed_and_what_live_ones_write_is_not(tmp_path: Path) -> None:
    live = subprocess.Popen(["sleep", "60"])
    try:
        gone = [".a.kvv.99999999.0123abcd.tmp"]
        stays = [
            f".a.kvv.{live.pid}.0123abcd.tmp",  # of a process that is there
            f".a.kvv.{os.getpid()}.0123abcd.tmp",  # of this one
            f".b.kvv.{DEAD}.0123abcd.tmp",  # of another file
            f".axkvv.{DEAD}.0123abcd.tmp",
            f".a.kvv.{DEAD}.0123abcd.tmp.txt",  # of something else
            f".a.kvv.{DEAD}.tmp",
            f"a.kvv.{DEAD}.0123abcd.tmp",
        ]
        for name in (*gone, *stays):
            (tmp_path / name).write_text("part")
        put(tmp_path / "a.kvv", "whole")
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*stays, "a.kvv"])
    finally:
        live.kill()
        live.wait()


LOCKED = """
import os, sys
from pathlib import Path
from kvpress_video.utils.files import atomic_write, check_target, make_folder
with atomic_write(Path(sys.argv[1])) as scratch:
    scratch.write_text("from another container")
    os.rename(scratch, sys.argv[2])
    print("written", flush=True)
    sys.stdin.readline()
    os.rename(sys.argv[2], scratch)
"""


def test_what_a_process_of_another_container_writes_is_not_removed(tmp_path: Path) -> None:
    """Its number says nothing here, its lock does."""
    path, elsewhere = tmp_path / "a.kvv", tmp_path / f".a.kvv.{DEAD}.0123abcd.tmp"
    command = [sys.executable, "-c", LOCKED, str(path), str(elsewhere)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        put(path, "from here")
        assert elsewhere.exists()
        other.communicate("go on\n")
    assert path.read_text() == "from another container"
    elsewhere.write_text("left")
    put(path, "from here")
    assert [file.name for file in tmp_path.iterdir()] == ["a.kvv"]


def test_a_folder_that_cannot_be_listed_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    put(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_a_target_is_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "folder": "It is a folder",
        "pipe": "It is a device or pipe",
        "file/new/a": "Not a directory",
        "new/" + "a" * 300: "File name too long",
        "a\0b": "cannot hold a NUL character",
    }.items():
        with pytest.raises(OSError, match=said):
            check_target(tmp_path / name)
    for name in ("a", "file", "new/folder/a", "é" * 127):
        check_target(tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder", "pipe"]


def test_a_target_in_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for any user but root."""
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder) != tmp_path)
    with pytest.raises(OSError, match=f"The folder {tmp_path} may not be written"):
        check_target(tmp_path / "new" / "a")


def test_a_folder_with_an_impossible_name(tmp_path: Path) -> None:
    for name, said in (("a\0b", "cannot hold a NUL character"), ("a" * 300, "File name too long")):
        with pytest.raises(OSError, match=said):
            make_folder(tmp_path / name)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
@pytest.mark.parametrize("suffix", [".csv", ".html", ".png", ".svg", ".pdf", ".json", ".kvv"])
def test_every_writer_keeps_permissions_and_links_and_refuses_pipes(tmp_path: Path, suffix: str, bundled: Any) -> None:
    from kvpress_video.benchmarks.perf.results.file import check, keep
    from kvpress_video.benchmarks.perf.results.measurement import Figure
    from summary_rows import line, overlay, whole

    from kvpress_video import VideoSession
    from kvpress_video.errors import KVPressVideoError
    from kvpress_video.report import draw_curves, write_report
    from kvpress_video.report.page import write_overlay

    def bench(path: Path) -> None:
        check(path, head)
        keep(path, head, "pass", [Figure("pass", "case", "what", 1.0, "ms")])

    lines = [whole(), line("tar")]
    writers: dict[str, Any] = {
        ".csv": lambda path: write(path, b"text"),
        ".html": lambda path: write_report(path, lines, title="A sweep"),
        ".png": lambda path: draw_curves(lines, path),
        ".svg": lambda path: write_overlay(overlay(), path),
        ".pdf": lambda path: write_overlay(overlay(), path),
        ".json": bench,
        ".kvv": VideoSession(*bundled, budget=20).save,
    }
    real, link, pipe = (tmp_path / f"{name}{suffix}" for name in ("real", "link", "pipe"))
    head = dict.fromkeys(("device", "machine", "scale", "versions"), "here")
    real.write_text(json.dumps({**head, "rows": []}))
    real.chmod(0o600)
    link.symlink_to(real.name)
    os.mkfifo(pipe)
    abandoned = tmp_path / f".{real.name}.{DEAD}.0123abcd.tmp"
    abandoned.write_text("part")
    before = real.read_bytes()
    writers[suffix](link)
    assert mode_of(real) == 0o600
    assert link.is_symlink()
    assert real.read_bytes() != before
    assert not abandoned.exists()
    with pytest.raises((OSError, KVPressVideoError), match="device or pipe"):
        writers[suffix](pipe)
    assert pipe.is_fifo()
    with pytest.raises((OSError, KVPressVideoError), match="too long"):
        writers[suffix](tmp_path / f"{'a' * 300}{suffix}")
    with pytest.raises((OSError, KVPressVideoError), match="NUL"):
        writers[suffix](tmp_path / f"a\0b{suffix}")
