"""The README's code runs and prints what the README says; its commands are those of the command line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import transformers
from kvpress_video.benchmarks.world import make_clip
from transformers.video_utils import load_video

import kvpress_video as kv
from kvpress_video.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
LARGE = {"Qwen/Qwen2.5-VL-7B-Instruct": str(kv.bundled_path())}
SMALL = {"video-mme:path=/data/Video-MME,frames=128": "world:count=2,frames=8", ":dtype=bfloat16": ":dtype=float32"}
TRANSFORMERS = tuple(map(int, transformers.__version__.split(".")[:2]))


def code(first_words: str) -> str:
    """The block of Python that contains some words, with the bundled model in place of a large one."""
    (found,) = [text for language, text in BLOCKS if language == "python" and first_words in text]
    return replaced(found, LARGE)


def replaced(text: str, by: dict[str, str]) -> str:
    for name, other in by.items():
        text = text.replace(name, other)
    return text


def run(text: str, names: dict[str, Any] | None = None) -> str:
    """Run a block of Python and return what it prints."""
    said = StringIO()
    with redirect_stdout(said):
        exec(compile(text, "README.md", "exec"), names if names is not None else {"__name__": "readme"})
    return said.getvalue()


def printed(first_words: str) -> str:
    """The output that the README shows, of the block that contains some words."""
    (found,) = [text for language, text in BLOCKS if language == "text" and first_words in text]
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, with a clip."""
    monkeypatch.chdir(tmp_path)
    make_clip(Path("clip.mp4"), frames=32)
    return tmp_path


def test_the_quickstart_prints_what_the_readme_says() -> None:
    Path("clip.mp4").unlink()
    assert run(code("make_clip")) == printed("flashing heart")


@pytest.mark.skipif(TRANSFORMERS < (5, 20), reason="older ones read videos in other ways")
def test_an_existing_script_is_compressed_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV reads the file in place of torchcodec, which may be missing."""
    from transformers.video_processing_utils import BaseVideoProcessor

    def fetch(self: Any, videos: Any, sample_indices_fn: Any = None) -> Any:
        if isinstance(videos, list):
            return list(zip(*[fetch(self, video, sample_indices_fn) for video in videos], strict=True))
        return load_video(videos, backend="pyav", sample_indices_fn=sample_indices_fn)

    monkeypatch.setattr(BaseVideoProcessor, "fetch_videos", fetch)
    names: dict[str, Any] = {}
    patched = code("AutoProcessor").replace("kv.patch(", "handle = kv.patch(").replace("budget=6144", "budget=96")
    assert "handle = " in patched
    assert run(patched, names).strip()
    assert (names["handle"].stats.prefills, names["handle"].stats.entries) == (1, 96)


def test_the_stream_answers() -> None:
    assert run(code("VideoSession")) == printed("circle")


def test_the_method_keeps_the_rules() -> None:
    assert run(code("class KeyNorm")).startswith("KeyNorm passes all ")


def test_every_block_of_python_is_run_above() -> None:
    words = ("make_clip", "AutoProcessor", "VideoSession", "class KeyNorm")
    assert sum(language == "python" for language, _ in BLOCKS) == len([code(each) for each in words])


def commands() -> list[str]:
    """The calls of kvpress-video in the README, in blocks and in the text."""
    in_text = re.findall(r"`(kvpress-video [^`]+)`", BLOCK.sub("", README))
    in_blocks = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    return in_text + [line for line in in_blocks if line.startswith("kvpress-video ")]


def test_the_commands_run(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("script.py").write_text("print('run')\n")
    found = commands()
    assert len(found) == 5
    for number, command in enumerate(found):
        _, name, *arguments = shlex.split(replaced(command, {**LARGE, **SMALL}))
        if name == "run":
            done = subprocess.run(
                [sys.executable, "-m", "kvpress_video.cli", name, *arguments], capture_output=True, text=True
            )
            assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr
            continue
        if name == "sweep":
            arguments += ["--device", "cpu", "--workers", "1"]
            arguments += [] if "--benchmarks" in arguments else ["--benchmarks", "world:count=2,frames=8"]
            arguments += [] if "--out" in arguments else ["--out", f"sweep-{number}"]
        assert main([name, *arguments]) == 0, command


def test_the_targets_of_make_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        assert re.search(rf"^{target}\b.*:", makefile, re.MULTILINE)


def test_it_can_be_read_in_five_minutes() -> None:
    assert len(BLOCK.sub("", README).split()) < 750
