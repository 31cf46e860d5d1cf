"""Census of all registered image-text-to-text model types: the adapter of each, or why it is not supported.

`python -m kvpress_video.benchmarks.census.run` writes `benchmarks/results/census.json` and a table in `docs/models.md`.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import transformers

import kvpress_video as kv
from kvpress_video.models import ADAPTERS

from ..publishing.provenance import provenance, write_result
from ..publishing.sweep import fill_files
from .tiny import registered_types, tiny_model

_FEATURES = {
    "chunks": '`prefill="whole"` only',
    "queries": "no methods that use queries",
    "images": "no images",
    "videos": "no videos",
}
_FORMAT = "not checked: no synthetic prompt runs on it, use `kv.inspect(model, inputs)`"
_BUILD = "not checked: no tiny model can be built from its default configuration"


@dataclass(frozen=True)
class Row:
    """Support of one model type.

    Attributes:
        model_type: as registered.
        adapter: class of the dedicated adapter, `"general"`, or empty.
        refused: unsupported features that differ between types.
        grid: whether the grid of its tokens is known.
        reason: why the type is not supported.
    """

    model_type: str
    adapter: str = ""
    refused: tuple[str, ...] = ()
    grid: bool = True
    reason: str = ""


def row_of(model_type: str) -> Row:
    """Build and inspect a tiny model of a type, unless there is a dedicated adapter."""
    own = next((adapter for adapter in ADAPTERS if model_type in adapter.model_types), None)
    if own is not None:
        return Row(model_type, own.__name__)
    try:
        model = tiny_model(model_type)
    except Exception as error:
        return Row(model_type, reason=f"no tiny model can be built: {_first_line(error)}")
    found = kv.inspect(model)
    if found.unsupported:
        reason = found.unsupported.partition("no dedicated adapter, and ")[2].rpartition(" Supported: ")[0]
        return Row(model_type, reason=(reason or found.unsupported).partition("; pass the output")[0].rstrip("."))
    refused = tuple(feature for feature in _FEATURES if feature in found.refused)
    return Row(model_type, "general", refused, "grid unknown" not in found.prompt)


def table(rows: Sequence[Row]) -> str:
    """Format a table of types: dedicated adapters, general adapter, unsupported."""
    lines = ["| model types | adapter | limits, or why not supported |", "|---|---|---|"]
    dedicated = [row for row in rows if row.adapter not in ("", "general")]
    lines += [f"| {types} | dedicated | |" for types in _grouped(dedicated, lambda row: row.adapter).values()]
    served = sorted((row for row in rows if row.adapter == "general"), key=lambda row: len(_limits(row)))
    lines += [f"| {types} | general | {limits} |" for limits, types in _grouped(served, _limits).items()]
    refused = [row for row in rows if not row.adapter]
    lines += [f"| {types} | none | {reason} |" for reason, types in sorted(_grouped(refused, _summary).items())]
    return "\n".join(lines) + "\n"


def counts(rows: Sequence[Row]) -> str:
    """Format the number of types per adapter."""
    general = sum(row.adapter == "general" for row in rows)
    none = [row for row in rows if not row.adapter]
    unknown = sum(_summary(row) in (_FORMAT, _BUILD) for row in none)
    dedicated = len(rows) - general - len(none)
    return (
        f"Of {len(rows)} registered types of transformers {transformers.__version__}, {dedicated} have a dedicated "
        f"adapter, {general} use the general adapter, {unknown} could not be checked, and {len(none) - unknown} are "
        "not supported.\n"
    )


def _limits(row: Row) -> str:
    return ", ".join([_FEATURES[each] for each in row.refused] + ([] if row.grid else ["no grid for some items"]))


def _summary(row: Row) -> str:
    """Shorten the reason of an unsupported type; the results file has it in full."""
    if row.reason.startswith("no synthetic prompt"):
        return _FORMAT
    return _BUILD if row.reason.startswith("no tiny model") else row.reason.replace("|", "\\|")


def _grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(f"`{row.model_type}`")
    return {each: ", ".join(types) for each, types in found.items()}


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip():.160}" if lines else type(error).__name__


def main() -> None:
    """Take the census."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/census.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--types", nargs="*", help="look at these only, and write nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    rows = []
    for model_type in options.types or registered_types():
        rows.append(row_of(model_type))
        print(*(f"{value}" for value in asdict(rows[-1]).values()), sep=" | ", flush=True)
        gc.collect()
    print(counts(rows))
    if not options.types:
        write_result(options.out, provenance(), types=[asdict(row) for row in rows])
        fill_files({options.page: {"census": counts(rows) + "\n" + table(rows)}})


if __name__ == "__main__":
    main()
