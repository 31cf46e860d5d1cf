"""Methods of other packages: names that clash, packages that are broken, classes that are no methods."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import DistributionFinder, PathDistribution
from pathlib import Path
from typing import Any

import pytest

from kvpress_video.cli import main
from kvpress_video.compressor import list_methods
from kvpress_video.compressor.registry import make_method, method_class, method_names
from kvpress_video.errors import MethodError, UnknownNameError
from kvpress_video.utils.entry_points import installed

Install = Callable[..., None]
METHOD = '''
from dataclasses import dataclass
from kvpress_video.compressor import Compressor

@dataclass(frozen=True)
class Mine(Compressor):
    """Keep mine."""

    def scores(self, entries):
        return entries.values.norm(dim=-1)
'''


class Finder(DistributionFinder):
    """Finds the packages that a test installs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, *args: Any) -> None:
        return None

    def find_distributions(self, context: Any = None) -> Iterator[PathDistribution]:
        yield from (PathDistribution(info) for info in sorted(self.folder.glob("*.dist-info")))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package whose module declares methods."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder(tmp_path)])
    modules: list[str] = []

    def put(package: str, source: str, **names: str) -> None:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        points = "".join(f"{name.replace('_', '-')} = {module}:{target}\n" for name, target in names.items())
        (info / "entry_points.txt").write_text(f"[kvpress_video.methods]\n{points}")
        modules.append(module)
        installed.cache_clear()

    yield put
    installed.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def test_a_package_adds_a_method(install: Install) -> None:
    install("kvp-mine", METHOD, mine="Mine")
    assert "mine" in method_names()
    assert type(make_method("mine")).__name__ == "Mine"


def test_a_package_cannot_replace_a_method_of_ours_silently(install: Install) -> None:
    install("aaa-first-in-the-alphabet", METHOD, tar="Mine")
    with pytest.warns(UserWarning, match=r"kvpress.video and package aaa-first-in-the-alphabet both declare 'tar'"):
        assert method_class("tar").__module__ == "kvpress_video.methods.tar"


def test_of_two_packages_with_one_name_a_warning_says_which_is_used(install: Install) -> None:
    install("kvp-b", METHOD, mine="Mine")
    install("kvp-a", METHOD, mine="Mine")
    with pytest.warns(UserWarning, match=r"package kvp-a and package kvp-b both declare 'mine'.*kvp_a:Mine is used"):
        assert method_class("mine").__module__ == "kvp_a"


def test_installed_methods_do_not_clash() -> None:
    installed.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "tar" in method_names()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no GPU')", "'mine' of package kvp-mine .kvp_mine:Mine. cannot be loaded: .*no GPU"),
        ("import not_there_at_all", "package kvp-mine.*not_there_at_all"),
        ("Other = 1", "package kvp-mine.*no attribute 'Mine'"),
        ("Mine = 1", "package kvp-mine.*is not a Compressor class"),
        ("class Mine: pass", "package kvp-mine.*is not a Compressor class"),
    ],
)
def test_a_broken_package_is_named(install: Install, source: str, message: str) -> None:
    install("kvp-mine", source, mine="Mine")
    with pytest.raises(UnknownNameError, match=message):
        make_method("mine")
    assert make_method("tar")


def test_settings_that_break_a_method_name_both(install: Install) -> None:
    source = METHOD.replace('    """Keep mine."""\n', "    share: object = 1\n") + (
        "    def __post_init__(self):\n        self.share + 1\n"
    )
    install("kvp-mine", source, mine="Mine")
    with pytest.raises(UnknownNameError, match=r"mine cannot be made with share='half': .*str"):
        make_method("mine:share=half")


def test_a_class_without_its_decorator_says_so(install: Install) -> None:
    source = METHOD.replace("@dataclass(frozen=True)\n", "").replace('"""Keep mine."""', "share: float = 0.5")
    install("kvp-mine", source, mine="Mine")
    with pytest.raises(MethodError, match=r"Mine is not a dataclass.*\(share\).*@dataclass\(frozen=True\)"):
        make_method("mine")


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        (METHOD.replace("Keep mine.", " "), ""),
        (METHOD.replace('"""Keep mine."""', "share: float"), ""),
        ("raise ImportError('broken')", "package kvp-mine"),
        (METHOD.replace('"""Keep mine."""', "needs = {'query'}"), "Did you mean 'queries'"),
    ],
)
def test_the_list_of_methods_goes_on(
    install: Install, source: str, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past methods without a description, with a setting that must be given, and that cannot be loaded."""
    install("kvp-mine", source, mine="Mine")
    rows = {each.name: each for each in list_methods()}
    assert list(rows) == method_names()
    assert broken in rows["mine"].broken
    assert bool(broken) == bool(rows["mine"].broken)
    assert rows["mine"].fidelity == ""
    assert main(["methods", "--wide"]) == 0
    said = capsys.readouterr().out
    assert "mine" in said
    assert broken in said


def test_a_card_of_another_package(install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its documentation, or the card that lies in its package."""
    install("kvp-mine", METHOD.replace('"""Keep mine."""', '"""Keep mine."""\n\n    share: float = 0.5'), mine="Mine")
    assert main(["methods", "mine"]) == 0
    assert capsys.readouterr().out == "# mine\n\nKeep mine.\n\n**Settings.** share=0.5.\n"
    package = tmp_path / "kvp_folder"
    (package / "cards").mkdir(parents=True)
    (package / "cards" / "filed.md").write_text("# filed\n\nKeeps it.\n")
    (package / "__init__.py").write_text("")
    (package / "filed.py").write_text(METHOD)
    install("kvp-other", "", filed="Mine")
    points = tmp_path / "kvp_other-1.0.dist-info" / "entry_points.txt"
    points.write_text("[kvpress_video.methods]\nfiled = kvp_folder.filed:Mine\n")
    installed.cache_clear()
    assert main(["methods", "filed"]) == 0
    assert capsys.readouterr().out == "# filed\n\nKeeps it.\n"
