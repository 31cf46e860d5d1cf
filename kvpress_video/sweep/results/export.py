"""Encode records as CSV, Parquet, JSON or Markdown."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

from ...errors import SweepError, unknown_name
from ...utils.files import atomic_write, check_target, make_folder

Records: TypeAlias = Sequence[Mapping[str, Any]]

PARQUET = "parquet"
_BREAK = "\r\n"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
SUFFIXES = {
    ".csv": "csv",
    ".parquet": PARQUET,
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".md": "markdown",
    ".markdown": "markdown",
}


def format_for(out: Path | None, name: str | None) -> str:
    """Choose a format by its name, or else by the suffix of the file, or else CSV.

    Raises:
        UnknownNameError: unknown format or suffix.
        SweepError: Parquet without a file.
    """
    if name is None:
        if out is not None and out.suffix.lower() not in SUFFIXES:
            raise unknown_name("suffix", out.suffix, SUFFIXES)
        name = "csv" if out is None else SUFFIXES[out.suffix.lower()]
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    if name == PARQUET and out is None:
        raise SweepError("Parquet is not text: name a file with --out FILE.parquet.")
    return name


def encode(records: Records, format: str, types: Mapping[str, str] | None = None) -> bytes:
    """Encode records as the content of a file.

    Numbers and strings are exact, except in Markdown, where floats have four digits, and in CSV, where an apostrophe
    precedes text that a spreadsheet would run as a formula: that begins with `=`, `+`, `-`, `@`, a tab or a line break
    and is no number. Dictionaries are JSON text in CSV,
    Parquet and Markdown; so are lists in CSV and Markdown.

    Args:
        records: all with the same keys.
        format: one of `FORMATS`.
        types: the type of each column in order, as in `ROW_TYPES`; `""` to infer it. By default columns and types are
            those of the records.

    Raises:
        UnknownNameError: unknown format.
        SweepError: the package that writes it is missing.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if types is None:
        types = dict.fromkeys((column for record in records[:1] for column in record), "")
    return FORMATS[format](records, types)


def write(out: Path, content: bytes) -> None:
    """Write a file atomically, and create its folder.

    Raises:
        SweepError: it cannot be written.
    """
    try:
        make_folder(out.parent)
        with atomic_write(out) as scratch:
            scratch.write_bytes(content)
    except OSError as error:
        raise SweepError(f"Cannot write {out}: {error.strerror}.") from error


def check_output(out: Path) -> None:
    """Check that a file can be written, before the work whose result goes there.

    Raises:
        SweepError: it cannot.
    """
    try:
        check_target(out)
    except OSError as error:
        raise SweepError(f"Cannot write {out}: {error.strerror}.") from error


def _csv(records: Records, types: Mapping[str, str]) -> bytes:
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator=_BREAK)  # quotes both characters
    writer.writerow(types)
    writer.writerows([_harmless(_flat(record[column])) for column in types] for record in records)
    return "".join(f"{line.removesuffix(_BREAK)}\n" for line in lines).encode(errors="backslashreplace")


def _harmless(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run as a formula; numbers are left as they are."""
    formula = isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value)
    return f"'{value}" if formula else value


def _json(records: Records, types: Mapping[str, str]) -> bytes:
    return "[{}\n]\n".format(",".join("\n" + _to_json(record) for record in records)).encode(errors="backslashreplace")


def _jsonl(records: Records, types: Mapping[str, str]) -> bytes:
    return "".join(_to_json(record) + "\n" for record in records).encode(errors="backslashreplace")


def _markdown(records: Records, types: Mapping[str, str]) -> bytes:
    numeric = {column for column in types if all(isinstance(record[column], int | float | None) for record in records)}
    rules = ["--:" if column in numeric else ":--" for column in types]
    lines = [list(types), rules, *([_cell(record[column]) for column in types] for record in records)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).encode(errors="backslashreplace")


def _parquet(records: Records, types: Mapping[str, str]) -> bytes:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SweepError("Parquet needs pyarrow: pip install 'kvpress-video[parquet]'.") from error
    arrow = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "list[int]": pa.list_(pa.int64()),
        "dict[str, Any]": pa.string(),
        "dict[str, str]": pa.string(),
    }
    columns = {
        column: pa.array([_flat(r[column], dict) for r in records], arrow.get(kind.removesuffix(" | None")))
        for column, kind in types.items()
    }
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


FORMATS: dict[str, Callable[[Records, Mapping[str, str]], bytes]] = {
    "csv": _csv,
    PARQUET: _parquet,
    "json": _json,
    "jsonl": _jsonl,
    "markdown": _markdown,
}


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _flat(value: Any, nested: Any = (dict, list)) -> Any:
    return _to_json(value) if isinstance(value, nested) else value


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(_flat(value))
    for character, escaped in _MARKDOWN.items():
        text = text.replace(character, escaped)
    return text


_MARKDOWN = {"\\": "\\\\", "|": "\\|", "&": "&amp;", "<": "&lt;", "\r\n": "<br>", "\n": "<br>", "\r": "<br>"}
