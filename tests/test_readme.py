"""The README's code runs and prints what the README says; its commands are those of the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import transformers
from kvpress_video.benchmarks.world import make_clip
from snippets import BLOCK, ROOT, check_target, commands, run_command, run_python, small, snippets
from transformers.video_utils import load_video

PAGE = ROOT / "README.md"
README = PAGE.read_text()
BLOCKS = snippets(PAGE)
TRANSFORMERS = tuple(map(int, transformers.__version__.split(".")[:2]))


def code(first_words: str) -> str:
    """The block of Python that contains some words, with the bundled model in place of a large one."""
    (found,) = [each.code for each in BLOCKS if each.language == "python" and first_words in each.code]
    return small(found)


def run(text: str, names: dict[str, Any] | None = None) -> str:
    """Run a block of Python and return what it prints."""
    return run_python(text, names if names is not None else {"__name__": "readme"}, PAGE.name)


def printed(first_words: str) -> str:
    """The output that the README shows, of the block that contains some words."""
    (found,) = [each.code for each in BLOCKS if each.language == "text" and first_words in each.code]
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
    assert sum(each.language == "python" for each in BLOCKS) == len([code(each) for each in words])


def calls() -> list[list[str]]:
    """The calls of kvpress-video in the README, in blocks and in the text."""
    in_text = [shlex.split(each) for each in re.findall(r"`(kvpress-video [^`]+)`", BLOCK.sub("", README))]
    in_blocks = [words for each in BLOCKS if each.language == "bash" for words in commands(each.code)]
    return in_text + [words for words in in_blocks if words[0] == "kvpress-video"]


def test_the_commands_run(folder: Path) -> None:
    Path("script.py").write_text("print('run')\n")
    found = calls()
    assert len(found) == 5
    said = [run_command(words, folder) for words in found]
    assert said[[words[1] for words in found].index("run")] == "run\n"


def test_the_targets_of_make_are_there() -> None:
    for target in re.findall(r"^make (\S+)", README, re.MULTILINE):
        check_target(target)


def test_it_can_be_read_in_five_minutes() -> None:
    assert len(BLOCK.sub("", README).split()) < 750
