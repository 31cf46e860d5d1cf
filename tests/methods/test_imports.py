"""A method is written against one module: the public face of `kvpress_video.compressor`."""

from __future__ import annotations

import ast
from pathlib import Path

import kvpress_video.methods
import pytest

FILES = sorted(Path(kvpress_video.methods.__path__[0]).glob("*.py"))
ALLOWED = {f"kvpress_video.{name}" for name in ("compressor", "errors", "utils.blocks", "utils.formatting")}


def test_the_methods_were_found() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_method_imports_from_the_public_face_alone(file: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    absolute = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    absolute += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert {name for name in absolute if name.startswith("kvpress_video")} <= ALLOWED
    assert all(node.level <= 1 for node in nodes if isinstance(node, ast.ImportFrom))
