"""Read annotations: JSON, JSON lines or Parquet, with errors that name file and item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kvpress_video.errors import BenchmarkError

Record = Mapping[str, Any]


def find_annotation(root: Path, patterns: Iterable[str]) -> Path:
    """Find the first file under `root` that matches a pattern, trying the patterns in order.

    Raises:
        BenchmarkError: `root` is not a folder, or no file matches.
    """
    if not root.is_dir():
        raise BenchmarkError(f"There is no folder {root}: set path to the folder of the benchmark's local copy.")
    patterns = list(patterns)
    for pattern in patterns:
        for found in sorted(root.glob(pattern)):
            return found
    raise BenchmarkError(f"No annotation in {root}: looked for {', '.join(patterns)}.")


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        BenchmarkError: it is missing, or not JSON; the error names the line.
    """
    text = _text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{file} is not JSON: line {error.lineno}: {error.msg}.") from error


def read_records(file: Path) -> list[Record]:
    """Read the records of a `.json` file with a list, of a `.jsonl` file, or of a `.parquet` file.

    Raises:
        BenchmarkError: it is missing or damaged, holds no records, or pyarrow is needed and not installed.
    """
    read = {".jsonl": _json_lines, ".parquet": _parquet}.get(file.suffix, read_json)
    records = read(file)
    if not isinstance(records, list) or not records:
        raise BenchmarkError(f"{file} should hold a list of items, it holds {_kind(records)}.")
    return records


def need(record: Record, columns: Iterable[str], where: str) -> None:
    """Check that records have columns.

    Raises:
        BenchmarkError: columns are missing; the error lists those found and those expected.
    """
    columns = list(columns)
    if not isinstance(record, Mapping):
        raise BenchmarkError(f"{where}: expected the columns {', '.join(columns)}, found {_kind(record)}.")
    missing = [column for column in columns if column not in record]
    if missing:
        raise BenchmarkError(
            f"{where}: no {', '.join(map(repr, missing))}. Found the columns {', '.join(sorted(record)) or 'none'}; "
            f"expected {', '.join(columns)}."
        )


def need_list(value: Any, what: str, where: str) -> list[Any]:
    """Read a list.

    Raises:
        BenchmarkError: it is not a list, or empty.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise BenchmarkError(f"{where}: {what} should be a list, found {value!r}.")
    return list(value)


def need_number(value: Any, what: str, where: str) -> float:
    """Read a number.

    Raises:
        BenchmarkError: it is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BenchmarkError(f"{where}: {what} should be a number, found {value!r}.")
    return float(value)


def seconds(stamp: Any, where: str) -> float:
    """Parse `"HH:MM:SS"` or `"MM:SS"`, with or without a fraction, into seconds.

    Raises:
        BenchmarkError: it is not such a time.
    """
    try:
        return float(sum(float(part) * 60**place for place, part in enumerate(reversed(str(stamp).split(":")))))
    except ValueError as error:
        raise BenchmarkError(f"{where}: {stamp!r} is not a time, HH:MM:SS.") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BenchmarkError(f"There is no {file}: the local copy is not complete.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{file} cannot be read: {error}") from error


def _json_lines(file: Path) -> list[Any]:
    records = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise BenchmarkError(f"{file} is not JSON lines: line {number}: {error.msg}.") from error
    return records


def _parquet(file: Path) -> list[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BenchmarkError(f"Reading {file} needs pyarrow: pip install 'kvpress-video[parquet]'.") from error
    try:
        return list(parquet.read_table(file).to_pylist())
    except (OSError, pyarrow.ArrowException) as error:
        raise BenchmarkError(f"{file} cannot be read as Parquet: {error}") from error


def _kind(value: Any) -> str:
    return f"an empty {type(value).__name__}" if value in ([], {}, "") else f"a {type(value).__name__}"
