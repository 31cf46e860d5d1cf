"""Fixtures of all tests. The package is imported before any model class, so that torchvision can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import kvpress_video  # noqa: F401

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

    from kvpress_video.sweep.benchmark import Clip as Piece

pytest_plugins = ("offloading", "forged_sessions")

torch.set_num_threads(1)  # two test processes share two cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what a method shares with others, and most of each matrix and of long tests, to the slow tests."""
    from generation import SCORES_ALONE
    from quick_share import is_quick, left_out

    own = Path(__file__).parent / "methods"
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec") or own in item.path.parents:
            continue
        params = item.callspec.params
        method = params.get("method")
        alike = isinstance(method, str) and method in SCORES_ALONE
        if alike or not is_quick(f"{item.path.name}::{item.originalname}", params):
            item.add_marker(pytest.mark.slow)
    for item in left_out(items):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def bundled() -> tuple[Any, Any]:
    """The bundled model and its processor."""
    from kvpress_video.models.loading import load_bundled

    return load_bundled(device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Four short clips of the bundled world, two of each camera."""
    from kvpress_video.benchmarks.world import make_clips

    folder: Path = tmp_path_factory.mktemp("clips")
    pytest.importorskip("av", reason="PyAV writes the clips")
    return make_clips(4, frames=8, folder=folder)


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> list[Piece]:
    """The same clips, as the benchmark `world:count=4,frames=8` gives them to a sweep."""
    from kvpress_video.benchmarks.world.benchmark import World

    pytest.importorskip("av", reason="PyAV writes the clips")
    return list(World(count=4, frames=8).clips(0, tmp_path_factory.mktemp("pieces")))
