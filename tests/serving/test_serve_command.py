"""`kvpress-video serve` as a process: it says what fits, answers, and saves its sessions when it is told to end."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from kvpress_video.cli import main

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from servers import serving  # noqa: E402


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", "0.0.0.0"], "give API keys"),
        (["--budget", "25%"], "25% is not a cap: give a budget of visual entries or bytes"),
        (["--method", "no-such-method"], "Unknown method"),
        (["--method", "full"], "keeps everything"),
        (["--memory", "20"], "a size such as 20GiB"),
        (["--memory", "1MiB"], "hold no session"),
        (["--allow-folder", "/no/such/folder"], "There is no folder"),
        (["--api-key-file", "/no/such/file"], "cannot be read"),
        (["--save-every", "5"], "needs a folder to save to"),
        (["--port", "65536"], "Ports end at 65535"),
        (["/no/such/model"], "There is no model folder"),
    ],
)
def test_mistakes_are_told_in_one_line(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *options]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("kvpress-video: ")
    assert reason in told


def test_a_port_in_use_is_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"kvpress-video: Cannot listen on 127.0.0.1:{port} (Address already in use): choose")


def test_sigterm_saves_the_sessions(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "kept"
    with serving(log, "--sessions", str(folder)) as (url, process):
        number = httpx.post(f"{url}/v1/sessions", json={}).json()["id"]
        question = {"question": "Why?", "max_tokens": 4}
        assert httpx.post(f"{url}/v1/sessions/{number}/ask", json=question, timeout=60).status_code == 200
        assert main(["serve", "--budget", "96", "--sessions", str(folder)]) == 2
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert lines[0]["event"] == "start"
    assert lines[0]["sessions"] == lines[0]["available"] // lines[0]["session"] > 0
    assert (folder / f"{number}.kvv").is_file()
