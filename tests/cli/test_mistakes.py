"""Plain mistakes: one line that says what to do, and exit code 2."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sweep_rows import done

import kvpress_video
from kvpress_video.cli import main
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.store import FILE, Store

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

COMMAND = [sys.executable, "-m", "kvpress_video.cli"]
BUNDLED = Path(kvpress_video.__file__).parent / "data" / "bundled"
LOOK = ["look", "{clip}", "--methods", "tar", "--budget", "25%", "--out", "{folder}/look.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip]) -> Path:
    """Things to mistake for others: a sweep, pipes, folders, damaged checkpoints."""
    made = tmp_path_factory.mktemp("mistakes")
    shutil.copy(clips[0].path, made / "clip.mp4")
    cells = [Cell("full", "100%"), Cell("tar", "25%")]
    with Store(made / "swept", {"cells": [asdict(cell) for cell in cells], "setup": {}, "clips": {}}) as store:
        for cell in cells:
            store.add(done(cell, 0, lambda *_: 1.0))
    (made / "damaged").mkdir()
    (made / "damaged" / FILE).write_text("method,budget\n" * 100)
    for name in ("pipe.mp4", "pipe.html", "pipe.csv", "pipe.json"):
        os.mkfifo(made / name)
    for name in ("folder.html", "folder.png", "folder.csv", "folder.json", "taken"):
        (made / name).mkdir()
    os.mkfifo(made / "taken" / FILE)
    (made / "text").write_text("text")
    (made / "figures.json").write_text('{"rows": [1], "device": "", "machine": "", "scale": "", "versions": {}}')
    for name, file, content in (
        ("weights", "model.safetensors", "cut off"),
        ("config", "config.json", "not JSON"),
        ("tokens", "tokenizer.json", "{}"),
    ):
        shutil.copytree(BUNDLED, made / name)
        (made / name / file).write_text(content)
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "{clip}", "q", "--max-new-tokens", "0"], "'0' is not a whole number from 1 to"),
        (["ask", "{clip}", "q", "--max-new-tokens", "many"], "'many' is not a whole number"),
        (["ask", "{clip}", "q", "--methods", "tar"], "kvpress-video ask: error: unrecognized arguments: --methods tar"),
        (["ask", "{clip}", "q", "--device", "cudda"], "There is no device 'cudda'"),
        (["ask", "{clip}", "q", "--device", "hpu"], "The device 'hpu' cannot be used here"),
        (["ask", "{clip}", "q", "--device", "meta"], "The device 'meta' holds no values"),
        (["ask", "{clip}", "q", "--dtype", "x"], "Unknown dtype 'x'"),
        (["ask", "{clip}", "q", "--dtype", "int8"], "Unknown dtype 'int8'"),
        (["ask", "{clip}", "q", "--attention", "x"], "Cannot load a multimodal model"),
        (
            ["ask", "{clip}", "q", "--model", "{folder}/weights"],
            "Cannot load .*SafetensorError",
        ),
        (["ask", "{clip}", "q", "--model", "{folder}/config"], "Cannot load a multimodal model"),
        (["ask", "{clip}", "q", "--model", "{folder}/tokens"], "Cannot load a multimodal model"),
        (["ask", "{clip}", "what is <|video_pad|>?"], "contains '<.video_pad.>'"),
        (["ask", "{clip}", "<|im_end|>"], "contains '<.im_end.>'"),
        (["ask", "{clip}", "caf\udce9"], "is no character: write it in UTF-8"),
        (["ask", "{folder}/pipe.mp4", "q"], "is a pipe"),
        ([*LOOK, "--question", "<|image_pad|>"], "contains '<.image_pad.>'"),
        ([*LOOK, "--frames", "0"], "At least one frame must be shown"),
        ([*LOOK, "--device", "cudda"], "There is no device"),
        ([*LOOK[:-1], "{folder}/folder.png"], "Cannot write .*It is a folder"),
        ([*LOOK[:-1], "{folder}/pipe.html"], "Cannot write .*a device or pipe"),
        ([*LOOK[:-1], "{folder}/text/look.png"], "Not a directory"),
        ([*LOOK[:-1], "{folder}/" + "a" * 300 + ".png"], "File name too long"),
        (["results", "{folder}/swept", "--out", "{folder}/pipe.csv"], "a device or pipe"),
        (["results", "{folder}/swept", "--out", "{folder}/folder.csv"], "It is a folder"),
        (["results", "{folder}/swept", "--format", "xls"], "Unknown format 'xls'"),
        (["results", "{folder}/damaged"], "not written by a sweep"),
        (["results", "{folder}/text"], "No sweep in"),
        (["report", "{folder}/swept", "--out", "{folder}/folder.html"], "It is a folder"),
        (["report", "{folder}/swept", "--figures", "{folder}/text"], "Not a directory"),
        (["report", "{folder}/swept", "--markdown", "{folder}/folder.csv"], "It is a folder"),
        (["report", "{folder}/swept", "--overlay-clips", "-1"], "'-1' is not a whole number from 0"),
        (["report", "{folder}/damaged"], "not written by a sweep"),
        (["compare", "{folder}/swept", "{folder}/damaged"], "not written by a sweep"),
        (["compare", "{folder}/swept", "{folder}/swept", "--budgets", "7%"], "Unknown budget of these sweeps '7%'"),
        (["sweep", "--out", "{folder}/text"], "Cannot write .*: Not a directory"),
        (["sweep", "--out", "{folder}/damaged"], "not written by a sweep"),
        (["sweep", "--out", "{folder}/taken"], "is a device or pipe and no sweep"),
        (["sweep", "--out", "{folder}/new", "--device", "hpu"], "The device 'hpu' cannot be used here"),
        (["sweep", "--out", "{folder}/new", "--overlay-clips", "x"], "'x' is not a whole number from 0"),
        (["sweep", "{folder}/pipe.json", "--dry-run"], "it is a device or pipe"),
        (["bench", "pass", "--device", "cudda"], "There is no device 'cudda'"),
        (["bench", "pass", "--scale", "huge"], "Unknown scale 'huge'"),
        (["bench", "pass", "--scale", "tiny", "--out", "{folder}/pipe.json"], "a device or pipe"),
        (["bench", "pass", "--scale", "tiny", "--out", "{folder}/folder.json"], "It is a folder"),
        (["bench", "pass", "--scale", "tiny", "--out", "{folder}/figures.json"], "holds no figures"),
        (["run", "--method", "tar", "--budget", "25%", "--"], "There is no command to run"),
        (["run", "--method", "tar", "--budget", "25%", "--", "not-there-at-all"], "There is no command 'not-there"),
        (["run", "--method", "tar", "--budget", "25%", "--", "{folder}"], "There is no command"),
        (["run", "--method", "tar", "--budget", "25%", "--chunk", "0", "--", "true"], "at least one visual token"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(folder.rglob("*"))
    asked = [argument.format(clip=folder / "clip.mp4", folder=folder) for argument in arguments]
    try:
        code = main([*asked, "--device", "cpu"] if asked[0] in ("ask", "look") and "--device" not in asked else asked)
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capfd.readouterr().err
    assert code == 2, said
    last = said.strip().splitlines()[-1]
    assert re.search(message, last), last
    assert "Traceback" not in said
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("output", ["/dev/full", None])
def test_output_that_cannot_be_written_ends_without_a_traceback(output: str | None) -> None:
    """A full disk, and a stdout that the caller has closed."""
    command = f"{' '.join(COMMAND)} methods {f'> {output}' if output else '>&-'}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    said = "kvpress-video: [Errno 28] No space left on device\n" if output else ""
    assert (done.returncode, done.stderr) == (2 if output else 0, said)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["sweep", "--methods", "full,recnt"], "recent"),
        (["sweep", "--benchmarks", "wrld:count=1"], "world"),
        (["tune", "25%", "--methods", "recnt"], "recent"),
        (["tune", "25%", "--benchmark", "room"], "rooms"),
        (["ask", "clip.mp4", "What?", "--method", "infinipot"], "infinipot-v"),
        (["look", "clip.mp4", "--methods", "snap-kv", "--budget", "9%"], "snapkv"),
        (["serve", "--method", "infinipot"], "infinipot-v"),
        (["run", "--method", "recnt", "--budget", "9", "--", "true"], "recent"),
        (["methods", "recnt"], "recent"),
        (["sweep", "--models", "bundled:dtyp=float32"], "dtype"),
        (["ask", "clip.mp4", "What?", "--model", "bundled-qwen3vl"], "bundled-qwen3_vl"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_a_misspelt_name_is_reported_before_torch_is_imported(arguments: list[str], meant: str) -> None:
    program = f"import sys; from kvpress_video.cli import main; print(main({arguments}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert f"Did you mean {meant!r}?" in done.stderr


def test_text_that_the_terminal_cannot_show_is_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "look", "--help"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout


def test_memory_that_runs_out_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvpress_video.cli import methods

    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    for error in (MemoryError(), OutOfMemoryError("too much"), RuntimeError("CPU: can't allocate memory")):

        def fail(options: object, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(methods, "_methods", fail)
        assert main(["methods"]) == 2
        assert capsys.readouterr().err.startswith("kvpress-video: Out of memory: take fewer frames")
