"""Convert a training folder into a checkpoint folder: `python -m kvpress_video.benchmarks.train.export FROM TO`.

The files are written in the layout of the published checkpoints, which all supported versions of transformers read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .families import FAMILIES
from .processor import CHAT_TEMPLATE, build_processor
from .worlds import WORLDS, TrainingWorld

LOGGED = 30
"""Approximate number of evenly spaced lines of the training log to keep, in addition to the last."""


def export(trained: Path, out: Path, world: TrainingWorld) -> None:
    """Write model, tokenizer, processor and training log of `trained` to `out`, each file atomically."""
    family = FAMILIES[json.loads((trained / "config.json").read_text())["model_type"]]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = Path(name)
        family.load(trained, family.dtype).save_pretrained(scratch)
        processor = build_processor(family, world, scratch / "processor")
        processor.image_processor.save_pretrained(scratch)
        processor.video_processor.save_pretrained(scratch)
        shutil.copy(trained / "tokenizer.json", scratch)
        shutil.rmtree(scratch / "processor")
        special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "processor_class": family.processor_class, **special}
        _write(scratch / "tokenizer_config.json", {**tokenizer, "model_max_length": 32768})
        _write(scratch / "special_tokens_map.json", special)
        (scratch / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        vocabulary = json.loads((scratch / "tokenizer.json").read_text())["model"]
        _write(scratch / "vocab.json", vocabulary["vocab"])
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in vocabulary["merges"]]
        (scratch / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        config = json.loads((scratch / "config.json").read_text())
        _write(scratch / "config.json", family.readable(config))
        text = config["text_config"]
        _write(
            scratch / "generation_config.json",
            {"do_sample": False, **{key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}},
        )
        for kind in ("", "video_"):
            path = scratch / f"{kind}preprocessor_config.json"
            _write(path, {**json.loads(path.read_text()), "processor_class": family.processor_class})
        log = (trained / "log.jsonl").read_text().splitlines()
        kept = [*log[: -1 : max(1, len(log) // LOGGED)], log[-1]]
        (scratch / "training_log.jsonl").write_text("\n".join(kept) + "\n")
        for file in scratch.iterdir():
            file.chmod(0o644)
            os.replace(file, out / file.name)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="output folder of training")
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--world", choices=WORLDS, default="world", help="what it was trained on (default world)")
    options = parser.parse_args()
    export(options.trained, options.out, WORLDS[options.world])


if __name__ == "__main__":
    main()
