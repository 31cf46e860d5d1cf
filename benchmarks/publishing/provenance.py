"""Write result files with their provenance and one record per line."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from kvpress_video.sweep.run.environment import git_revision, versions
from kvpress_video.utils.files import atomic_write


def provenance() -> dict[str, Any]:
    """Return the command, versions, revision and machine of this process."""
    module = sys.modules["__main__"].__spec__
    program = module.name if module else Path(sys.argv[0]).name
    return {
        "command": f"python -m {program} {shlex.join(sys.argv[1:])}".strip(),
        "versions": versions(),
        "revision": git_revision(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
    }


def write_result(file: Path, head: Mapping[str, Any], **tables: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON file atomically: the items of `head`, then each table, one record per line."""
    parts = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()]
    for name, records in tables.items():
        lines = ",\n".join(f"  {json.dumps(record, ensure_ascii=False)}" for record in records)
        parts.append(f" {json.dumps(name)}: [\n{lines}\n ]")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as scratch:
        scratch.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _processor() -> str:
    """Return the processor's name from /proc/cpuinfo, or else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
