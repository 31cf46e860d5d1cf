"""Find the videos of a local copy, and report missing ones."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from kvpress_video.errors import BenchmarkError

PLACES = ("", "videos", "video", "data", "data/videos")
"""Where videos lie in a local copy, relative to its folder; a benchmark may add to them."""

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".MP4")
SHOWN = 10
"""How many missing files a message names."""


def find_video(root: Path, name: str, places: Iterable[str] = PLACES) -> Path | None:
    """Find the video that an annotation names; None if there is none.

    In each folder, the name is tried as written (without a leading `/` or `./`), then without its folders; with its own
    suffix, then with others.
    """
    written = PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")))
    for place in places:
        for relative in dict.fromkeys((written, PurePosixPath(written.name))):
            for spelling in _spellings(relative):
                if (root / place / spelling).is_file():
                    return root / place / spelling
    return None


def report_missing(
    what: str, missing: Sequence[str], count: int, root: Path, places: Collection[str], *, skip: bool
) -> None:
    """List missing files in an error, or in a warning if they may be skipped.

    Args:
        what: the kind of files, in words: `"videos of MLVU"`.
        missing: their names; if there are none, nothing happens.
        count: expected number of files.
        root, places: folders that were searched.
        skip: whether to continue without them.

    Raises:
        BenchmarkError: files are missing, and `skip` is not set; or all of them are.
    """
    if not missing:
        return
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    looked = ", ".join(str(root / place) for place in places)
    named = ", ".join(missing[:SHOWN]) + more
    text = f"{len(missing)} of {count} {what} are missing: {named}. Looked for them in {looked}."
    if len(missing) == count:
        raise BenchmarkError(text)
    if not skip:
        raise BenchmarkError(f"{text} Add them, or go on without them: missing=skip.")
    warnings.warn(f"{text} Going on without them.", stacklevel=2)


def _spellings(name: PurePosixPath) -> Iterable[PurePosixPath]:
    if name.suffix.lower() not in map(str.lower, ENDINGS):
        return [name.with_name(name.name + ending) for ending in ENDINGS]
    return dict.fromkeys([name, *(name.with_suffix(ending) for ending in ENDINGS)])
