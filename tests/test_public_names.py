"""Public names of the package: complete, in the API reference, cheap to import, and readable when printed."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

import kvpress_video as kv

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / "docs" / "api"
PUBLIC = ("kvpress_video", *(f"kvpress_video.{name}" for name in ("compressor", "report", "sweep", "video")))
"""Packages whose names are the interface for users."""


def packages() -> list[ModuleType]:
    """The package and all of its sub-packages."""
    found = pkgutil.walk_packages(kv.__path__, "kvpress_video.")
    return [kv, *(import_module(each.name) for each in found if each.ispkg and "lm_eval" not in each.name)]


def test_all_lists_what_can_be_imported() -> None:
    for name in PUBLIC:
        package = import_module(name)
        assert sorted(set(package.__all__)) == sorted(package.__all__)
        assert [each for each in package.__all__ if not hasattr(package, each)] == []


def test_no_name_is_replaced_by_a_module_of_the_same_name_once_that_is_imported() -> None:
    for package in packages():
        modules = {each.name for each in pkgutil.iter_modules(package.__path__)}
        assert modules & set(getattr(package, "__all__", ())) == set(), package.__name__


def test_every_public_name_is_in_the_api_reference() -> None:
    pages = "\n".join(page.read_text() for page in API.glob("*.md"))
    described = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    wanted = {f"{name}.{each}" for name in PUBLIC for each in import_module(name).__all__ if each != "__version__"}
    homes = {_home(each): each for each in described}
    assert {each for each in wanted if _home(each) not in homes} == set()
    assert len(homes) == len(described), "an object is described twice"


def _home(path: str) -> Any:
    """Object at a path of the reference."""
    package, _, name = path.rpartition(".")
    found = getattr(import_module(package), name)
    return found if isinstance(found, type | FunctionType) else path


def test_the_version_is_that_of_the_installed_package() -> None:
    assert kv.__version__ == version("kvpress-video")


def test_the_bundled_models_load_as_any_other_checkpoint() -> None:
    for name in ("qwen2_5_vl", "qwen3_vl"):
        assert (kv.bundled_path(name) / "config.json").is_file()
    with pytest.raises(kv.UnknownNameError, match="qwen3_vl"):
        kv.bundled_path("qwen3")


@pytest.mark.parametrize(
    "code",
    [
        "import kvpress_video; kvpress_video.__version__",
        "from kvpress_video.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from kvpress_video.cli import main\ntry: main(['sweep', '--help'])\nexcept SystemExit: pass",
        "from kvpress_video.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    heavy = "import sys; sys.exit(str({'torch', 'transformers', 'numpy'} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{heavy}"], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


class TestReprs:
    """Objects say what they hold, in one line."""

    @pytest.fixture(scope="class")
    def loaded(self) -> tuple[Any, Any]:
        return kv.load_bundled(device="cpu")

    @pytest.fixture
    def video(self) -> kv.Video:
        return kv.Video.from_frames(np.zeros((8, 112, 112, 3), np.uint8), fps=2)

    def test_video(self, video: kv.Video) -> None:
        assert repr(video) == "<Video from memory: 8 frames of 112×112, 0.0 to 3.5 s, 2 fps>"

    def test_compression_and_report(self, loaded: tuple[Any, Any], video: kv.Video) -> None:
        model, processor = loaded
        with kv.compress(model, "tar:recent_ratio=0.5", "25%") as run:
            assert repr(run) == (
                "<Compression of Qwen2_5_VLForConditionalGeneration: tar:recent_ratio=0.5 at 25%, 0 reports>"
            )
            model.generate(**kv.prepare(processor, video, "how many?"), max_new_tokens=1)
        assert repr(run).endswith("tar:recent_ratio=0.5 at 25%, 1 report>")
        assert repr(run.report) == f"<Report: {run.report}>"

    def test_patch(self, loaded: tuple[Any, Any]) -> None:
        with kv.patch(loaded[0], "van", 1) as handle:
            assert repr(handle) == "<Patch of Qwen2_5_VLForConditionalGeneration: van at 1 token; requests: 0, prefills: 0, visual tokens: 0>"  # fmt: skip  # noqa: E501

    def test_session(self, loaded: tuple[Any, Any], video: kv.Video) -> None:
        session = kv.VideoSession(*loaded, "van", 16)
        assert repr(session) == (
            "<VideoSession on Qwen2_5_VLForConditionalGeneration: van at 16 tokens, 0 frames, 0 turns>"
        )
        session.push(video.frames[:1])
        assert "1 frame up to 0.0 s" in repr(session)
