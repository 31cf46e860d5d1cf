"""torchvision beside a torch of another build: importable as soon as this package is, and left alone elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from video_files import write_video

import kvpress_video as kv
from kvpress_video.utils import torchvision_compat

BUNDLED = Path(kv.__file__).parent / "data" / "bundled"
OWN_BUILD = torch.__version__.partition("+")[2]
C10 = next((Path(torch.__file__).parent / "lib").glob("*c10.*"))

REGISTERS = """
import torch
library = torch.library.Library("torchvision", "IMPL", "Meta")
library.impl("nms", lambda dets, scores, iou_threshold: dets.new_empty(0))
"""


def child(code: str, *arguments: object, path: Path | None = None) -> str:
    """Output of a new process."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def torchvision(folder: Path, version: str, library: bytes | None = b"of another build", code: str = REGISTERS) -> Path:
    """A package that describes an operator to torch, as the real one does when it is imported."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    (package / "version.py").write_text(f"__version__ = '{version}'\ngit_version = 'abc+def'\n")
    if library is not None:
        (package / "_C.so").write_bytes(library)
    return folder


REPAIR = f"import runpy; runpy.run_path({torchvision_compat.__file__!r})['repair_torchvision']()\n"
DEFINED = f"{REPAIR}import sys, torch; print(hasattr(torch.ops.torchvision, 'nms'), 'torchvision' in sys.modules)"


def test_another_build_can_be_imported(tmp_path: Path) -> None:
    path = torchvision(tmp_path, "0.28.0+cu999")
    assert child(DEFINED, path=path) == "True False"
    child("import kvpress_video, torchvision", path=path)
    with pytest.raises(AssertionError, match=r"torchvision::nms"):
        child("import torchvision", path=path)


def test_the_same_build_is_left_alone(tmp_path: Path) -> None:
    version = f"0.28.0+{OWN_BUILD}" if OWN_BUILD else "0.28.0"
    assert child(DEFINED, path=torchvision(tmp_path, version)) == "False False"


def test_another_build_that_loads_is_left_alone(tmp_path: Path) -> None:
    path = torchvision(tmp_path, "0.28.0+cu999", None)
    (path / "torchvision" / "_C.so").symlink_to(C10)
    assert child(DEFINED, path=path) == "False False"


@pytest.mark.slow
def test_nothing_is_done_where_it_is_absent_or_loaded(tmp_path: Path) -> None:
    assert child(f"import sys; sys.modules['torchvision'] = None\n{DEFINED}") == "False True"
    path = torchvision(tmp_path, "0.28.0+cu999", code="")
    assert child(f"import torchvision\n{DEFINED}", path=path) == "False True"
    (path / "torchvision" / "version.py").unlink()
    assert child(DEFINED, path=path) == ("True False" if OWN_BUILD else "False False")


CARD = """
import sys
import kvpress_video as kv
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, clip = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder)
video = {"type": "video", "video": kv.read_video(clip).frames}
messages = [{"role": "user", "content": [video, {"type": "text", "text": "Where?"}]}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", do_sample_frames=False
)
with kv.compress(model, "tar", "25%"):
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
print(output.shape[1] - inputs["input_ids"].shape[1])
"""


def test_a_script_in_the_form_of_a_model_card_runs(tmp_path: Path) -> None:
    """With whatever torchvision is installed here."""
    clip = write_video(tmp_path / "clip.mp4", size=(112, 112), frames=8, rate=2)
    assert 0 < int(child(CARD, BUNDLED, clip)) <= 4


def test_transformers_may_be_imported_first() -> None:
    code = "import sys, transformers, kvpress_video\nfrom transformers import AutoProcessor\n"
    code += "print(type(AutoProcessor.from_pretrained(sys.argv[1])).__name__)"
    assert child(code, BUNDLED) == "Qwen2_5_VLProcessor"
