"""Turn a training folder into an ordinary checkpoint folder: `python -m kvpress_video.benchmarks.train.export FROM TO`.

The files are written in the layout of the published Qwen2.5-VL checkpoints, which transformers 4.57 and 5.x both read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .processor import CHAT_TEMPLATE, build_processor

LOGGED_EVERY = 10
"""One in so many lines of the training log is kept, and the last."""


def export(trained: Path, out: Path) -> None:
    """Write model, tokenizer, processor and training log of `trained` to `out`, each file atomically."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = Path(name)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(trained, dtype="float32")
        model.save_pretrained(scratch)
        processor = build_processor(scratch / "processor")
        processor.image_processor.save_pretrained(scratch)
        processor.video_processor.save_pretrained(scratch)
        shutil.copy(trained / "tokenizer.json", scratch)
        shutil.rmtree(scratch / "processor")
        special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "processor_class": "Qwen2_5_VLProcessor", **special}
        _write(scratch / "tokenizer_config.json", {**tokenizer, "model_max_length": 32768})
        _write(scratch / "special_tokens_map.json", special)
        (scratch / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        vocabulary = json.loads((scratch / "tokenizer.json").read_text())["model"]
        _write(scratch / "vocab.json", vocabulary["vocab"])
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in vocabulary["merges"]]
        (scratch / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        config = json.loads((scratch / "config.json").read_text())
        _write(scratch / "config.json", _readable_everywhere(config))
        text = config["text_config"]
        _write(
            scratch / "generation_config.json",
            {"do_sample": False, **{key: text[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}},
        )
        for kind in ("", "video_"):
            _name_processor(scratch / f"{kind}preprocessor_config.json")
        log = (trained / "log.jsonl").read_text().splitlines()
        (scratch / "training_log.jsonl").write_text("\n".join([*log[:-1:LOGGED_EVERY], log[-1]]) + "\n")
        for file in scratch.iterdir():
            file.chmod(0o644)
            os.replace(file, out / file.name)


def _readable_everywhere(config: dict[str, Any]) -> dict[str, Any]:
    """Put the rotary settings of a configuration where both transformers 4.57 and 5.x read them."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope["rope_theta"]
    text["rope_scaling"] = {"type": "mrope", "rope_type": "default", "mrope_section": rope["mrope_section"]}
    vision = {key: value for key, value in config["vision_config"].items() if key != "rope_parameters"}
    return {**config, "text_config": text, "vision_config": vision, "transformers_version": "4.57.0"}


def _name_processor(path: Path) -> None:
    _write(path, {**json.loads(path.read_text()), "processor_class": "Qwen2_5_VLProcessor"})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="output folder of training")
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    options = parser.parse_args()
    export(options.trained, options.out)


if __name__ == "__main__":
    main()
