"""Copy a checkpoint in bfloat16, without moments: `python -m kvpress_video.benchmarks.train.small FROM TO`.

A later training resumes from the copy with new moments.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from .checkpoint import COURSE, PROBES


def save_small(trained: Path, out: Path) -> None:
    """Copy weights, probes, course and log of a training folder to `out`.

    Raises:
        FileNotFoundError: `trained` is no checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", PROBES):
        weights = {key: value.bfloat16().contiguous() for key, value in load_file(trained / name).items()}
        save_file(weights, out / name, metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", COURSE, "log.jsonl"):
        shutil.copyfile(trained / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="output folder of training")
    parser.add_argument("out", type=Path, help="folder of the copy")
    options = parser.parse_args()
    save_small(options.trained, options.out)


if __name__ == "__main__":
    main()
