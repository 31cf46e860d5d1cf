"""Text of subtitles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kvpress_video.errors import BenchmarkError

from .annotations import need_number, read_records, seconds

_TIMES = re.compile(r"\d+:\d+:\d+[,.]\d+\s*-->")
_TAGS = re.compile(r"<[^>]+>")


def srt_text(file: Path) -> str:
    """Text of an `.srt` file, one subtitle per line, without numbers, times and tags.

    Raises:
        BenchmarkError: it cannot be read, or holds no subtitles.
    """
    try:
        blocks = re.split(r"\n\s*\n", file.read_text(encoding="utf-8-sig").replace("\r", ""))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{file} cannot be read: {error}") from error
    said = []
    for block in blocks:
        lines = block.strip().split("\n")
        start = next((place for place, line in enumerate(lines) if _TIMES.match(line)), None)
        if start is not None:
            said.append(_TAGS.sub("", " ".join(lines[start + 1 :])).strip())
    if not said:
        raise BenchmarkError(f"{file} holds no subtitles in the .srt form.")
    return "\n".join(line for line in said if line)


def json_text(file: Path, offset: float, duration: float) -> str:
    """Text of LongVideoBench's subtitles during a part of a video, one per line.

    Args:
        file: a list of `{"timestamp": [start, end], "text"}` or of `{"start", "end", "line"}`.
        offset: start of the part, in seconds.
        duration: duration of the part, in seconds.

    Raises:
        BenchmarkError: the file is missing or malformed.
    """
    said = []
    for number, record in enumerate(read_records(file)):
        start, end, text = _timed(dict(record), offset + duration, f"{file}, subtitle {number}")
        if start < offset + duration and end > offset:
            said.append(text.strip())
    return "\n".join(line for line in said if line)


def _timed(record: dict[str, Any], last: float, where: str) -> tuple[float, float, str]:
    try:
        if "timestamp" in record:
            start, end = record["timestamp"]
            return need_number(start, "the start", where), last if end is None else float(end), str(record["text"])
        return seconds(record["start"], where), seconds(record["end"], where), str(record["line"])
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(
            f"{where}: expected timestamp and text, or start, end and line; found {sorted(record)}."
        ) from error
