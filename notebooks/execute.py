"""Run the notebooks and write them back with what they print and draw: `python notebooks/execute.py [NOTEBOOK …]`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from rich.console import Console

from kvpress_video.utils.files import atomic_write
from kvpress_video.utils.formatting import format_bytes

HERE = Path(__file__).parent
PATIENCE = 600
"""Seconds for one cell."""
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore:IProgress not found,ignore:install",
}
"""Keeps out of the outputs what is about progress bars, and what transformers may change one day."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class ThisPython(KernelSpecManager):
    """Knows one kernel: the interpreter that runs this."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel, whatever name is asked for."""
        return KernelSpec(**get_kernel_dict())


def notebooks() -> list[Path]:
    """All of them, in order."""
    return sorted(HERE.glob("*.ipynb"))


def execute(notebook: Path, folder: Path) -> NotebookNode:
    """Run a notebook from a fresh kernel.

    Args:
        notebook: its file, which stays as it is.
        folder: to run in.

    Returns:
        The notebook with its outputs, and with nothing that tells when and where it ran.

    Raises:
        CellExecutionError: a cell failed.
    """
    found = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as settings:
        manager = AsyncKernelManager(kernel_spec_manager=ThisPython(), transport="ipc", ip=f"{settings}/kernel")
        place = {"metadata": {"path": str(folder)}}
        client = NotebookClient(
            found, manager, timeout=PATIENCE, record_timing=False, coalesce_streams=True, resources=place
        )
        client.execute(cleanup_kc=True, env={**os.environ, **QUIET, "IPYTHONDIR": settings})
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _was_bar(output)]
    found.metadata = nbformat.from_dict(METADATA)
    return found


def _was_bar(output: NotebookNode) -> bool:
    """Whether this is what a progress bar leaves behind: a widget, or an empty line."""
    data = output.get("data", {"text/plain": "text"})
    return "application/vnd.jupyter.widget-view+json" in data or not data.get("text/plain", "").strip()


def main() -> None:
    """Run the notebooks that are named, or all, and write them in place."""
    for notebook in [Path(name) for name in sys.argv[1:]] or notebooks():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status(notebook.name):
            executed = execute(notebook, Path(folder))
        with atomic_write(notebook) as scratch:
            nbformat.write(executed, scratch)
        print(f"{notebook.name}: {time.monotonic() - began:.0f} s, {format_bytes(notebook.stat().st_size)}")


if __name__ == "__main__":
    main()
