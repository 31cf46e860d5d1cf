"""The notebooks run, and show what they printed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="running notebooks needs nbclient: pip install 'kvpress-video[notebooks]'")
pytest.importorskip("ipykernel", reason="running notebooks needs ipykernel: pip install 'kvpress-video[notebooks]'")
pytest.importorskip("pandas", reason="the notebooks need pandas: pip install 'kvpress-video[notebooks]'")

import nbformat

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 600 * 1024
ABSOLUTE = re.compile(r"(?<![\w.:/<])/[\w.-]+/[\w.-]+|\b[A-Z]:\\\w")

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell: Any) -> set[str]:
    """Output of a cell: text, tables, pictures, without stderr, such as progress bars."""
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    return {kind for output in shown for kind in output.get("data", {"stream": None})}


def texts(cell: Any) -> list[str]:
    """All that a cell's outputs say, pictures aside."""
    said = [output.text for output in cell.outputs if output.output_type == "stream"]
    data = [output.data for output in cell.outputs if "data" in output]
    return said + [text for each in data for kind, text in each.items() if not kind.startswith("image/")]


def test_there_are_four() -> None:
    assert len(NOTEBOOKS) == 4


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda each: each.stem)
def test_it_runs_and_leaves_nothing_behind(notebook: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    before = {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()}

    fresh = runner.execute(notebook, tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()} == before
    committed = code_cells(nbformat.read(notebook, as_version=4))
    for ran, shown in zip(code_cells(fresh), committed, strict=True):
        assert kinds(ran) == kinds(shown), f"run notebooks/execute.py {notebook.name}: this cell shows\n{shown.source}"


@every_notebook
def test_it_is_committed_as_it_was_executed(notebook: Path) -> None:
    found = nbformat.read(notebook, as_version=4)
    nbformat.validate(found)
    cells = code_cells(found)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.get("text")
            if output.output_type == "execute_result":
                assert output.execution_count == cell.execution_count
        for text in texts(cell):
            assert not ABSOLUTE.search(text), text
        assert cell.metadata == {}
    assert found.metadata.kernelspec.name == "python3"
    assert notebook.stat().st_size < LARGEST


@pytest.mark.parametrize("text", ["in /tmp/x1/swept", "'/home/me/clip.mp4'", r"C:\Users\me", "PosixPath('/a/b')"])
def test_absolute_paths_are_seen(text: str) -> None:
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["192/192 done", "<td>1</td></tr>", "https://arxiv.org/abs/1", "clips/a.mp4", "1 / 2"])
def test_other_slashes_are_not(text: str) -> None:
    assert not ABSOLUTE.search(text)


@every_notebook
def test_its_links_lead_somewhere(notebook: Path) -> None:
    found = nbformat.read(notebook, as_version=4)
    words = "\n".join(cell.source for cell in found.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)", words) if "://" not in link]
    assert links
    for link in links:
        assert (FOLDER / link).exists(), link
