"""Census of all registered image-text-to-text model types: the adapter of each, or why it is not supported.

`python -m kvpress_video.benchmarks.census.run` writes `benchmarks/results/census/VERSION.json`, for the installed
version of transformers, and a table of all versions in `docs/models.md`.
"""

from __future__ import annotations

import argparse
import gc
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import transformers

from ..publishing.provenance import provenance, write_result
from ..publishing.sweep import fill_files
from .page import census, counts
from .rows import Row, row_of
from .tiny import registered_types


def read(file: Path) -> list[Row]:
    """Read the rows of one version."""
    rows: list[dict[str, Any]] = json.loads(file.read_text())["types"]
    lists = ("refused", "methods")
    return [Row(**row | {name: tuple(row[name]) for name in lists if name in row}) for row in rows]


def main() -> None:
    """Take the census."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/census"), help="folder of the results")
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--types", nargs="*", help="check these again; by default all")
    parser.add_argument("--resume", action="store_true", help="check only types without a row")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    file = options.out / f"{transformers.__version__}.json"
    goes_on = file.exists() and (options.types or options.resume)
    known = {row.model_type: row for row in read(file)} if goes_on else {}
    rows, head = list(known.values()), provenance()
    for model_type in options.types or registered_types():
        if options.resume and model_type in known:
            continue
        known[model_type] = row = replace(row_of(model_type), revision=head["revision"] or "")
        print(*(f"{value}" for value in asdict(row).values()), sep=" | ", flush=True)
        rows = [known[each] for each in registered_types() if each in known]
        write_result(file, head, types=[asdict(each) for each in rows])
        gc.collect()
    print(counts(transformers.__version__, rows))
    fill_files({options.page: {"census": census({each.stem: read(each) for each in options.out.glob("*.json")})}})


if __name__ == "__main__":
    main()
