"""A folder of sessions that takes no files, or holds damaged ones: clients are told so, and nothing stays behind."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from servers import client_of, listening, make_server  # noqa: E402

from kvpress_video.serving.server.held_files import HeldFile, told  # noqa: E402
from kvpress_video.serving.server.membership import Membership, members  # noqa: E402
from kvpress_video.serving.server.session_files import SessionFiles  # noqa: E402


def full(*arguments: Any, **options: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refused(answer: Any, folder: Path) -> bool:
    """Whether a client is told to try again, and nothing of the server's paths."""
    retriable = answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    return retriable and answer.json()["error"]["code"] == "not_written" and str(folder) not in answer.text


@pytest.mark.parametrize("missing", ["space", "files"])
def test_a_session_that_no_other_server_could_find_is_not_opened(
    bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    server = make_server(bundled, sessions=tmp_path)
    with client_of(server) as client:
        number = client.post("/v1/sessions", json={}).json()["id"]
        before = {path.name for path in tmp_path.iterdir()}, server.admission.used
        with monkeypatch.context() as patch:
            if missing == "space":
                patch.setattr("os.pwrite", full)
            else:
                patch.setattr(HeldFile, "take", full)
            assert refused(client.post("/v1/sessions", json={}), tmp_path)
            assert refused(client.post(f"/v1/sessions/{number}/fork"), tmp_path)
            assert client.get(f"/v1/sessions/{number}").status_code == 200
        assert [each["id"] for each in client.get("/v1/sessions").json()["data"]] == [number]
        assert ({path.name for path in tmp_path.iterdir()}, server.admission.used) == before
        assert client.post("/v1/sessions", json={}).status_code == 201


@pytest.mark.parametrize("fails", ["write_bytes", "write_text"])  # the session, or its note
def test_a_save_that_fails_leaves_no_file(
    bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        number = client.post("/v1/sessions", json={}).json()["id"]
        with monkeypatch.context() as patch:
            patch.setattr(Path, fails, full)
            assert refused(client.post(f"/v1/sessions/{number}/save"), tmp_path)
        assert {path.stem for path in tmp_path.iterdir()} == {number}
        saved = client.post(f"/v1/sessions/{number}/save").json()["saved"]
        assert client.post("/v1/sessions", json={"saved": saved}).status_code == 201


def test_a_server_that_cannot_state_its_sessions_stays_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    membership = Membership(tmp_path, "server_a", lambda: 1)

    async def run() -> list[str]:
        await membership.join("http://127.0.0.1:1")
        monkeypatch.setattr("os.pwrite", full)
        running = asyncio.create_task(membership.run())
        await asyncio.sleep(0)
        found = [member.name for member in members(tmp_path)]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return found

    assert asyncio.run(run()) == ["server_a"]


def test_other_servers_know_of_a_session_once_it_is_opened(bundled: Any, tmp_path: Path) -> None:
    with listening(make_server(bundled, sessions=tmp_path, shared=True)) as url:
        for count in (1, 2, 3):
            assert httpx.post(f"{url}/v1/sessions", json={}, timeout=60).status_code == 201
            assert [member.sessions for member in members(tmp_path)] == [count]


def test_a_session_closed_elsewhere_leaves_no_claim(
    bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server deletes it while this one waits for it."""
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        number = client.post("/v1/sessions", json={}).json()["id"]
    server = make_server(bundled, sessions=tmp_path)
    take = server.sessions.claims.take

    async def take_late(served: Any) -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        await take(served)

    monkeypatch.setattr(server.sessions.claims, "take", take_late)
    with client_of(server) as client:
        assert client.get(f"/v1/sessions/{number}").status_code == 404
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "changed"])
def test_a_damaged_session_is_told_without_its_path(bundled: Any, tmp_path: Path, damage: str) -> None:
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        number, other = (client.post("/v1/sessions", json={}).json()["id"] for _ in range(2))
    path = tmp_path / f"{number}.kvv"
    content = path.read_bytes()
    damaged = {"cut": content[:1000], "garbage": bytes(len(content)), "changed": content[:-1] + b"\1"}
    path.write_bytes(damaged[damage])
    server = make_server(bundled, sessions=tmp_path)
    with client_of(server) as client:
        answer = client.get(f"/v1/sessions/{number}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_unreadable")
        assert str(tmp_path) not in answer.text
        assert server.admission.used == 0
        assert client.get(f"/v1/sessions/{other}").status_code == 200
        assert client.delete(f"/v1/sessions/{number}").status_code == 204
        assert client.get(f"/v1/sessions/{number}").status_code == 404
    assert {path.stem for path in tmp_path.iterdir()} == {other}


def test_a_session_of_a_larger_budget_than_its_note_is_refused(bundled: Any, tmp_path: Path) -> None:
    """Memory is reserved for the budget of the note."""
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        small, large = (client.post("/v1/sessions", json={"budget": size}).json()["id"] for size in (96, 2048))
    (tmp_path / f"{large}.kvv").replace(tmp_path / f"{small}.kvv")
    with client_of(make_server(bundled, sessions=tmp_path)) as client:
        answer = client.get(f"/v1/sessions/{small}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "session_unreadable")


@pytest.mark.parametrize("content", ["[" * 100_000, "", "null", '{"owner": "local", "need": "x", "saved": {}}'])
def test_damaged_notes_are_none(tmp_path: Path, content: str) -> None:
    name = f"sess_{'0' * 32}"
    files = SessionFiles(tmp_path)
    (tmp_path / f"{name}.json").write_text(content)
    assert files.find(name) is None
    assert told(tmp_path / f"{name}.json").get("server") is None
    files.close()
