"""`kvpress-video serve --ray`: replicas that are killed are replaced, and no session that clients know of is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import kvpress_video as kv
from kvpress_video.cli import main

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("aiohttp")
pytest.importorskip("ray.serve")
httpx = pytest.importorskip("httpx")

from clusters import ask, opened, push  # noqa: E402
from servers import serving  # noqa: E402

from kvpress_video.serving.cluster.on_ray import tidy  # noqa: E402
from kvpress_video.serving.cluster.scaling import Scale, by_sessions  # noqa: E402
from kvpress_video.serving.server.claims import claimant  # noqa: E402
from kvpress_video.serving.server.membership import members  # noqa: E402
from kvpress_video.serving.server.session_files import SessionFiles  # noqa: E402


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--replicas", "2"], "add --ray"),
        (["--ray", "--replicas", "4:2"], "limits such as 1:4"),
        (["--ray", "--replicas", "none"], "not 'none'"),
        (["--ray", "--sessions-per-replica", "8"], "needs limits"),
    ],
)
def test_mistakes_are_told_in_one_line(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--budget", "96", *options]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("kvpress-video: ")
    assert reason in told


@pytest.mark.parametrize(("sessions", "replicas"), [((0, 0), 0), ((16,), 1), ((16, 1), 2), ((16, 16, 16), 3)])
def test_replicas_follow_the_sessions(sessions: tuple[int, ...], replicas: int) -> None:
    loads = {f"replica {number}": count / 16 for number, count in enumerate(sessions)}
    assert by_sessions(SimpleNamespace(aggregated_metrics={"load": loads})) == (replicas, {})
    assert by_sessions(SimpleNamespace(aggregated_metrics=None)) == (0, {})
    assert Scale.parse("1:4", 8) == Scale(1, 4, 8)


def test_a_folder_is_tidied_unless_a_server_uses_it(tmp_path: Path) -> None:
    left = tmp_path / "server_0123456789ab.lock"
    left.touch()
    used = SessionFiles(tmp_path, shared=True)
    tidy(tmp_path)
    assert left.exists()
    used.close()
    tidy(tmp_path)
    assert not left.exists()


def answered(client: Any, session: str) -> dict[str, Any]:
    """Ask a session, again where the server says so."""
    while (answer := ask(client, session)).status_code == 503:
        time.sleep(int(answer.headers["retry-after"]))
    told: dict[str, Any] = answer.json()
    return told


def until(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_no_session_is_lost(clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two replicas is killed between two questions, the next during an answer."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    video, folder, log = kv.read_video(clips[0].path), tmp_path / "sessions", tmp_path / "log"
    options = ("--ray", "--replicas", "2", "--sessions", str(folder), "--save-every", "1")
    processes: set[int] = set()

    def running() -> dict[str, int]:
        found = {member.name: member.process for member in members(folder)}
        processes.update(found.values())
        return found

    def process_of(session: str) -> int:
        return running()[claimant(folder, session) or ""]

    with serving(log, *options) as (url, process), httpx.Client(base_url=url, timeout=120) as client:
        sessions = [opened(client) for _ in range(6)]
        assert len({process_of(session) for session in sessions}) == 2
        for session in sessions:
            push(client, session, video, 0, 4)
        kept = {session: ask(client, session).json()["answer"] for session in sessions}

        def saved() -> bool:
            listed = client.get("/v1/sessions").json()["data"]
            return all(each["saved"]["frames"] == 4 for each in listed)

        until(60, saved)
        os.kill(process_of(sessions[0]), signal.SIGKILL)
        told = {session: answered(client, session) for session in sessions}
        assert {session: each["answer"] for session, each in told.items()} == kept
        assert [session for session, each in told.items() if "lost" in each] == []

        until(300, lambda: len(running()) == 2)
        killed = process_of(sessions[0])
        os.kill(killed, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as asking:
            answer = asking.submit(ask, client, sessions[0])
            time.sleep(0.5)
            os.kill(killed, signal.SIGKILL)
        assert (answer.result().status_code, answer.result().headers["retry-after"]) == (503, "1")
        told = {session: answered(client, session) for session in sessions}
        lost = [session for session, each in told.items() if each.get("answer") != kept[session] or "lost" in each]
        assert len(lost) == 0

        process.terminate()
        assert process.wait(120) == 0, log.read_text()
    assert {path.stem for path in folder.glob("sess_*.kvv")} == set(sessions)
    assert list(folder.glob("server_*")) == []
    assert [number for number in processes if Path(f"/proc/{number}/cmdline").exists()] == []


SOON = """
import sys
from dataclasses import replace
from kvpress_video.cli import main
from kvpress_video.serving.cluster.scaling import Scale
parse = Scale.parse
Scale.parse = lambda *given: replace(parse(*given), up=1.0, down=5.0)
sys.exit(main())
"""


@pytest.mark.slow
def test_replicas_come_and_go_with_sessions(clips: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with shorter delays: the sessions of the replica that leaves go on, with all their frames."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")
    video, folder, log = kv.read_video(clips[0].path), tmp_path / "sessions", tmp_path / "log"
    options = ("--ray", "--replicas", "1:2", "--sessions-per-replica", "2", "--idle", "600", "--sessions", str(folder))
    with (
        serving(log, *options, program=("-c", SOON)) as (url, process),
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        assert len(members(folder)) == 1
        closed, stayed = [opened(client) for _ in range(2)], [opened(client)]
        until(300, lambda: len(members(folder)) == 2)
        stayed.append(opened(client))
        assert len({claimant(folder, session) for session in stayed}) == 2
        for session in stayed:
            push(client, session, video, 0, 4)
        kept = {session: ask(client, session).json()["answer"] for session in stayed}

        for session in closed:
            client.delete(f"/v1/sessions/{session}")
        until(300, lambda: len(members(folder)) == 1)
        told = {session: answered(client, session) for session in stayed}
        assert {session: each.get("answer") for session, each in told.items()} == kept
        assert [session for session, each in told.items() if "lost" in each] == []
        assert {client.get(f"/v1/sessions/{session}").json()["frames"] for session in stayed} == {4}
        process.terminate()
        assert process.wait(120) == 0, log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("starting", "number", "reason"),
    [
        ("raylet/raylet", signal.SIGINT, "interrupted before Ray was ready"),
        ("serving.cluster.process", signal.SIGTERM, '"interrupted", "before": "the replicas were ready"'),
    ],
)
def test_a_signal_ends_a_command_that_still_starts(
    starting: str, number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that waits for a process of Ray that does not go on; nothing that it started is left."""
    import psutil  # Ray's own

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")
    log, folder = tmp_path / "log", tmp_path / "sessions"
    folder.mkdir()
    kept = {f"sess_{'0' * 32}.kvv": "a session", f"sess_{'0' * 32}.json": "its note"}
    for name, text in kept.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "kvpress_video.cli", "serve", "--budget", "96", "--port", "0", "--ray"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--sessions", str(folder)], stderr=file)
    started: set[psutil.Process] = set()

    def found() -> list[psutil.Process]:
        assert process.poll() is None, log.read_text()
        started.update(psutil.Process(process.pid).children(recursive=True))
        return [each for each in started if starting in " ".join(command_of(each))]

    try:
        until(200, lambda: bool(found()))
        if number == signal.SIGINT:
            os.kill(found()[0].pid, signal.SIGSTOP)
            time.sleep(1)
        process.send_signal(number)
        assert process.wait(60) == 130, log.read_text()
    finally:
        _, left = psutil.wait_procs(started, 10)
        for each in (process, *left):
            each.kill()
        process.wait()
    assert left == []
    assert reason in log.read_text()
    assert "Traceback" not in log.read_text()
    assert {path.name: path.read_text() for path in folder.iterdir()} == kept


def command_of(process: Any) -> list[str]:
    """The command line of a process, none of one that has ended."""
    import psutil

    try:
        command: list[str] = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
    return command
