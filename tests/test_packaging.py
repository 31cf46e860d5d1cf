"""The wheel carries everything, and works where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("kvpress_video", "methods", "benchmarks", "pyproject.toml", "README.md", "LICENSE")


def test_the_makefile_installs_the_versions_of_the_constraints() -> None:
    makefile, constraints = (ROOT / "Makefile").read_text(), (ROOT / "constraints.txt").read_text().splitlines()
    for name in ("torch", "torchvision"):
        (built,) = re.findall(rf"^CPU_{name.upper()} := {name}==(\S+)\+cpu$", makefile, re.MULTILINE)
        assert {f"{name}=={built}", f"{name}=={built}+cpu"} & set(constraints)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(made), str(source)], check=True, capture_output=True)
    return next(made.glob("*.whl"))


def test_every_module_and_the_bundled_models_are_in_it(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    folders = {"kvpress_video": "kvpress_video", "methods": "kvpress_video/methods"}
    folders["benchmarks"] = "kvpress_video/benchmarks"
    for folder, installed in folders.items():
        for file in (ROOT / folder).rglob("*.py"):
            assert f"{installed}/{file.relative_to(ROOT / folder).as_posix()}" in inside
    for folder in ("bundled", "bundled_qwen3_vl"):
        model = {file.name for file in (ROOT / "kvpress_video/data" / folder).iterdir() if file.is_file()}
        assert model >= {"config.json", "model.safetensors", "tokenizer.json", "training_log.jsonl"}
        assert {f"kvpress_video/data/{folder}/{name}" for name in model} <= inside
    cards = {file.name for file in (ROOT / "docs" / "methods").glob("*.md")}
    assert len(cards) > 18
    assert {f"kvpress_video/methods/cards/{name}" for name in cards} <= inside
    assert "kvpress_video/py.typed" in inside
    assert not any(name.startswith("tests") for name in inside)


def test_it_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import kvpress_video\n"
        "from kvpress_video.compressor.registry import method_class, method_names\n"
        "from kvpress_video.models.loading import load_bundled\n"
        "from kvpress_video.benchmarks.world import make_clips\n"
        "import kvpress_video.benchmarks.world as world, kvpress_video.sweep, kvpress_video.cli\n"
        "model, processor = load_bundled(device='cpu')\n"
        "for name in method_names():\n"
        "    assert sys.modules[method_class(name).__module__].__file__.startswith(sys.argv[1]), name\n"
        "from kvpress_video.compressor import method_card\n"
        "assert method_card('van').startswith('# van')\n"
        "print(kvpress_video.__file__, world.__file__, len(method_names()), type(processor).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    package, world, methods, processor = done.stdout.split()
    assert Path(package).is_relative_to(target)
    assert Path(world).is_relative_to(target)
    assert int(methods) >= 16
    assert processor == "Qwen2_5_VLProcessor"


def test_the_citation_has_the_version_of_the_package() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_page_of_the_package_index_is_rendered(wheel: Path) -> None:
    twine = pytest.importorskip("twine.commands.check", reason="needs twine: pip install 'kvpress-video[dev]'")
    assert not twine.check([str(wheel)], strict=True)


def test_extras_are_installed_in_one_way_everywhere() -> None:
    """`pip install 'kvpress-video[x]'`: once the package is installed, pip adds the extra in any folder."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.md")]
    sources = [*ROOT.glob("kvpress_video/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    project = (ROOT / "pyproject.toml").read_text()
    named = set()
    for file in [*pages, *sources]:
        for quote, package, extra in re.findall(r"pip install (['\"]?)([\w.-]+)\[([\w-]+)\]", file.read_text()):
            if package in (".", "kvpress-video", "kvpress_video"):
                assert (quote, package) == ("'", "kvpress-video"), file
                named.add(extra)
    assert {"serve", "tune"} <= named
    assert all(f"\n{extra} = [" in project for extra in named)
