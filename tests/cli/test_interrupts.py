"""Ctrl-C and SIGTERM at any moment of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running_sweeps import answered

from kvpress_video.cli import interrupts
from kvpress_video.cli.interrupts import Interrupts

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")
READY = """
import os, sys
from kvpress_video.cli import interrupts
stock = interrupts.ending_at_once
def ready():
    os.write(1, b"x")
    return stock()
interrupts.ending_at_once = ready
import kvpress_video.cli as cli
cli.ending_at_once = ready
sys.argv[0] = "kvpress-video"
sys.exit(cli.main())
"""


@pytest.fixture(autouse=True)
def usual_handler() -> Iterator[None]:
    """Also where the tests themselves run in the background, and ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("wait", [0.05, 0.3, 0.8, pytest.param(1.5, marks=pytest.mark.slow),
                                  pytest.param(2.5, marks=pytest.mark.slow)])  # fmt: skip
def test_a_command_ends_with_one_line_and_130(wait: float, clips: list[Clip], tmp_path: Path) -> None:
    """Times count from the first line of the command, which is written before anything large is imported."""
    asked = ["look", str(clips[0].path), "--methods", "tar", "--budget", "50%", "--out", "look.png"]
    command = [sys.executable, "-c", READY, *asked, "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        assert running.stdout is not None
        assert running.stdout.read(1) == "x"
        time.sleep(wait)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
    assert (running.returncode, said.splitlines()[-1]) == (130, "kvpress-video: interrupted")
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_importing_the_command_line_loads_nothing_large() -> None:
    """Otherwise Ctrl-C would come before it is handled."""
    code = "import sys, kvpress_video.cli; print({'torch', 'numpy', 'transformers', 'argparse'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """As under nohup, and in background jobs of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.ending_at_once(), Interrupts().watched():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_ctrl_c_in_a_destructor_is_not_lost() -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def destroy() -> None:
        with seen.watched():
            Interrupted()
            time.sleep(20)
            pytest.fail("it was lost")

    seen = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        destroy()
    assert seen.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_that_another_error_hides_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvpress_video.cli import main, methods

    def hide(options: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException as error:
            raise RuntimeError("an import failed") from error
        return 0

    monkeypatch.setattr(methods, "_methods", hide)
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "kvpress-video: interrupted\n"


def test_sigterm_ends_a_sweep_like_ctrl_c_and_the_process_by_the_signal(tmp_path: Path) -> None:
    """Its answers are kept and its tables written, and the last line says how to continue."""
    asked = ["--methods", "random,recent,tar", "--budgets", "50%,25%", "--benchmarks", "world:count=40,frames=8"]
    command = [sys.executable, "-m", "kvpress_video.cli", "sweep", *asked, "--workers", "1", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        while running.poll() is None and not answered(tmp_path / "sweep"):
            time.sleep(0.01)
        running.terminate()
        out, said = running.communicate(timeout=120)
    assert running.returncode == -signal.SIGTERM
    assert out.splitlines()[-1] == "Interrupted: the same command with --resume completes the sweep."
    assert "Traceback" not in said
    assert (tmp_path / "sweep/table.md").is_file()


def test_sigterm_ends_other_commands_with_one_line(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from kvpress_video.cli import main, methods\n"
        "methods._methods = lambda options: signal.raise_signal(signal.SIGTERM)\n"
        "sys.exit(main(['methods']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "kvpress-video: terminated\n")
