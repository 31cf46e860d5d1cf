"""Worlds to train models on, one module each."""

from __future__ import annotations

from .base import Drawn, TrainingWorld
from .flashes import Flashes
from .rooms import RoomsWorld

WORLDS: dict[str, TrainingWorld] = {world.name: world for world in (Flashes(), RoomsWorld())}
"""Worlds by the name of their benchmark."""

__all__ = ["WORLDS", "Drawn", "TrainingWorld"]
