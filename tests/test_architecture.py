"""Imports inside the package go downwards, in the order that docs/architecture.md states."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kvpress_video"
TOP_LEVEL = {"__init__", "errors", "budget", "compression", "question"}
PLUG_INS = {"methods", "benchmarks"}


def floors() -> dict[str, int]:
    """The floor of each package and top-level module, as the page draws them."""
    drawn = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert drawn
    lines = (line.split() for line in drawn[1].splitlines() if line.strip())
    return {name.strip("()"): int(number) for number, *names in lines for name in names}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, at_import_time: bool = False) -> Iterator[str]:
    """Every module of ours that a file imports, by absolute name; `if TYPE_CHECKING` counts where all do."""
    tree = ast.parse(file.read_text())
    here = module_of(file).split(".")
    package = here if file.name == "__init__.py" else here[:-1]
    for node in tree.body if at_import_time else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("kvpress_video"))
        if not isinstance(node, ast.ImportFrom):
            continue
        base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        name = ".".join(filter(None, (base, node.module)))
        if name.startswith("kvpress_video"):
            yield from (f"{name}.{alias.name}" for alias in node.names)


def files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if "startup" not in file.parts)


def part_of(module: str) -> str:
    """The package or top-level module that a module belongs to: `__init__` for the face itself."""
    parts = module.split(".")
    known = {file.stem for file in PACKAGE.glob("*.py")} | {folder.name for folder in PACKAGE.iterdir()} | PLUG_INS
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def check_circles(arrows: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " > ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(arrows):
        visit(name, ())


def test_every_package_has_a_floor_and_nothing_else_lies_in_the_root() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} == TOP_LEVEL
    packages = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert packages | TOP_LEVEL == floors().keys() - PLUG_INS


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_downwards(file: Path) -> None:
    floor, mine = floors(), part_of(module_of(file))
    for name in imports(file):
        other = part_of(name)
        assert other not in PLUG_INS, f"core imports {name}: plug-ins are found through entry points"
        assert other == mine or floor[other] < floor[mine], f"{mine} (floor {floor[mine]}) imports {name}"


def test_packages_and_modules_form_no_circle() -> None:
    modules = {module_of(file) for file in files()}
    inside: dict[str, set[str]] = {}
    for file in files():
        found = {name if name in modules else name.rpartition(".")[0] for name in imports(file, at_import_time=True)}
        inside[module_of(file)] = found - {module_of(file)}
    check_circles(inside)
    between: dict[str, set[str]] = {}
    for file in files():
        mine = part_of(module_of(file))
        between.setdefault(mine, set()).update(part_of(name) for name in imports(file))
    check_circles({name: others - {name} for name, others in between.items()})


@pytest.mark.parametrize("file", sorted((ROOT / "methods").glob("*.py")), ids=lambda file: file.name)
def test_methods_need_nothing_but_the_compressor(file: Path) -> None:
    allowed = {"compressor", "errors", "utils", "methods"}
    assert {part_of(name) for name in imports(file)} <= allowed
