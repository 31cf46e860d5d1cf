"""The code blocks of the documentation run; those that are marked as not run fit the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kvpress_video.benchmarks.world import make_clip
from public_copies import write_json, write_mlvu
from snippets import (
    ROOT,
    Snippet,
    check_command,
    check_python,
    commands,
    run_command,
    run_python,
    small,
    snippets,
)
from video_files import write_video

import kvpress_video as kv

PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/methods/*.md"), ROOT / "docs/template/README.md"])
BLOCKS = [each for page in PAGES for each in snippets(page)]
SLOW = {f"docs/{name}.md" for name in ("ci", "lm-eval", "multi-gpu", "results", "sweeps")}
NEEDS = {"docs/lm-eval.md": "lm_eval", "docs/sweeps.md": "pyarrow", "docs/multi-gpu.md": "transformers.distributed"}
GRID = "benchmarks: 'world:count=4,frames=8'\nmethods: [full, tar, infinipot-v]\nbudgets: 25%\n"


def run_pages(language: str) -> list[Any]:
    """The pages with blocks of a language that are run, as parameters of a test."""
    pages = dict.fromkeys(each.page for each in BLOCKS if each.language == language and each.reason is None)
    slow = SLOW if language == "bash" else {"docs/lm-eval.md"}
    return [pytest.param(page, marks=pytest.mark.slow if page in slow else ()) for page in pages]


def run_blocks(page: str, language: str) -> list[Snippet]:
    return [each for each in BLOCKS if (each.page, each.language, each.reason) == (page, language, None)]


def written_file(block: Snippet) -> str | None:
    """The name in the first line of a block that a command of its page runs as a script."""
    first = block.code.partition("\n")[0]
    return first[2:] if first.startswith("# ") and first.endswith(".py") else None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with what the pages take for granted: clips, a grid, a copy of MLVU."""
    monkeypatch.chdir(tmp_path)
    make_clip(Path("clip.mp4"), frames=16)
    for name in ("cam.mp4", "upload.mp4"):
        shutil.copy("clip.mp4", name)
    write_video(Path("lecture.mp4"), frames=1200, rate=2)
    Path("grid.yaml").write_text(GRID)
    return tmp_path


@pytest.fixture
def names(bundled: tuple[Any, Any]) -> dict[str, Any]:
    """Names that the code of a page expects: a model, the inputs of a prompt, frames of a camera."""
    model, processor = bundled
    frames = np.random.default_rng(0).integers(0, 255, (4, 112, 112, 3), np.uint8)
    inputs = kv.prepare(processor, kv.Video.from_frames(frames, fps=2), "What was the first shape to flash?")
    return {
        "kv": kv,
        "model": model,
        "processor": processor,
        "inputs": inputs,
        "frames": frames,
        "times": [0.0, 0.5, 1.0, 1.5],
    }


@pytest.mark.parametrize("page", run_pages("python"))
def test_python_runs(page: str, folder: Path, names: dict[str, Any]) -> None:
    pytest.importorskip(NEEDS.get(page, "numpy"))
    write_mlvu(Path("MLVU"))
    for block in run_blocks(page, "yaml")[:1]:
        Path("grid.yaml").write_text(block.code)
    for block in run_blocks(page, "python"):
        if written_file(block) is None:
            run_python(small(block.code), names, str(block))


@pytest.mark.parametrize("page", run_pages("bash"))
def test_commands_run(page: str, folder: Path) -> None:
    pytest.importorskip(NEEDS.get(page, "numpy"))
    for block in run_blocks(page, "python"):
        if name := written_file(block):
            Path(name).write_text(block.code)
    for block in run_blocks(page, "bash"):
        for words in commands(block.code):
            if shutil.which(words[0]) or words[0] in ("kvpress-video", "torchrun"):
                run_command(words, folder)


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language in ("python", "bash")], ids=str)
def test_names_and_options_exist(block: Snippet) -> None:
    if block.language == "python":
        check_python(block.code)
    else:
        for words in commands(block.code):
            check_command(words)


def test_every_block_has_a_language() -> None:
    assert [str(each) for each in BLOCKS if not each.language] == []


def test_the_benchmark_of_the_page_reads_its_file(folder: Path) -> None:
    (block,) = [each for each in run_blocks("docs/benchmarks.md", "python") if "class Mine" in each.code]
    own: dict[str, Any] = {"__name__": "mine"}
    run_python(block.code, own, str(block))
    write_json(
        Path("mine.json"), [{"id": "1", "question": "Who?", "options": ["a", "b"], "answer": "B", "video": "clip.mp4"}]
    )
    (clip,) = own["Mine"](path=".").clips(0, folder)
    assert own["Mine"](path=".").score(clip.questions[0], "B") == 1.0


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("import kvpress_video as kv\nkv.compres", AssertionError),
        ("import kvpress_video as kv\nkv.Video.from_frams", AssertionError),
        ("import kvpress_video as kv\nkv.load_bundled(devize='cpu')", TypeError),
        ("from kvpress_video.sweep import make_grit", AttributeError),
        ("kv.", SyntaxError),
    ],
)
def test_wrong_code_is_seen(code: str, wrong: type[Exception]) -> None:
    with pytest.raises(wrong):
        check_python(code)


@pytest.mark.parametrize(
    "command",
    [
        "kvpress-video sweeep",
        "kvpress-video sweep --budget 1 --methods a --benchmark b --power 2",
        "kvpress-video run --methud tar -- python",
        "python -m kvpress_video.benchmarks.streams.endless --out x --framess 4",
        "make docz",
        "pip install 'kvpress-video[tuna]'",
        "kvpressvideo sweep",
        "options=--budgetz\nkvpress-video sweep $options 25%",
    ],
)
def test_a_wrong_command_is_seen(command: str) -> None:
    *before, last = commands(command)
    for words in before:
        check_command(words)
    with pytest.raises(AssertionError):
        check_command(last)
