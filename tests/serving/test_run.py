"""`kvpress-video run`: what a command gets, what becomes of the models that it loads, and what is said of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kvpress_video as kv
from kvpress_video.cli import main
from kvpress_video.serving import launch

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

RUN = [sys.executable, "-m", "kvpress_video.cli", "run"]
BUNDLED = Path(kv.__file__).parent / "data" / "bundled"


def run(*arguments: str, method: str = "infinipot-v", budget: str = "40", path: Path | None = None, **more: Any) -> Any:
    """The finished process; `path` is the PYTHONPATH that it would have had."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [*RUN, "--method", method, "--budget", budget, "--", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **more)


def said(done: Any) -> list[str]:
    """Log lines about models, without process ids."""
    return [line.partition("]: ")[2] for line in done.stderr.splitlines() if line.startswith("kvpress-video [")]


def test_a_budget_of_one_warns_once_and_not_in_the_processes_that_are_run() -> None:
    program = "import json, os; print(json.loads(os.environ['KVPRESS_VIDEO_RUN'])['budget'])"
    done = run(sys.executable, "-c", program, budget="1")
    assert done.stdout == "1 token\n"
    [line] = done.stderr.splitlines()
    assert line.startswith("kvpress-video: The budget '1' is read as one visual entry per layer")


DEPLOYMENT = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)  # a worker of its own, as servers have
"""
PROGRAM = """
import gc, json, sys
import torch
from transformers import AutoModel, AutoModelForImageTextToText, BertConfig, BertModel
from transformers import Qwen2_5_VLForConditionalGeneration
folder, prompt, other = {arguments!r}
tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
BertModel(BertConfig(**tiny)).save_pretrained(other)
BertModel.from_pretrained(other)
AutoModel.from_pretrained(folder)
second, loading = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
del second
gc.collect()
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
torch.set_num_threads(1)
inputs = torch.load(prompt)
output = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
model.generate(input_ids=inputs["input_ids"][:, -9:], max_new_tokens=2)
print(json.dumps([output.sequences.tolist(), [layer.keys.shape[2] for layer in output.past_key_values.layers]]))
sys.exit(7)
"""


def test_models_of_an_unchanged_program_are_compressed(bundled: Any, clips: list[Clip], tmp_path: Path) -> None:
    import torch

    model, processor = bundled
    video = kv.read_video(clips[0].path)
    inputs = kv.prepare(processor, video, clips[0].questions[0].text)
    with kv.compress(model, "infinipot-v", 40) as reference:
        wanted = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    torch.save(dict(inputs), tmp_path / "inputs.pt")
    program = PROGRAM.format(arguments=(str(BUNDLED), str(tmp_path / "inputs.pt"), str(tmp_path / "bert")))
    done = run(sys.executable, "-c", DEPLOYMENT, program)

    assert done.returncode == 7, done.stderr
    sequences, lengths = json.loads(done.stdout)
    assert sequences == wanted.sequences.tolist()
    assert lengths == [layer.keys.shape[2] for layer in wanted.past_key_values.layers]
    assert lengths[0] < inputs["input_ids"].shape[1]
    name, applied = "Qwen2_5_VLForConditionalGeneration", "is compressed from now on: infinipot-v at 40 tokens"
    bert, headless, first, unloaded, second, ended = said(done)
    assert bert.startswith("BertModel is NOT compressed: Model type 'bert' (BertModel) is not supported")
    assert headless.startswith("Qwen2_5_VLModel is NOT compressed: Qwen2_5_VLModel has no language-model head")
    assert first == second == f"{name} {applied}"
    assert unloaded == f"{name}: requests: 0, prefills: 0, visual tokens: 0"
    seen = reference.report.visual_tokens
    assert ended.startswith(f"{name}: requests: 2, prefills: 1, visual tokens: {seen}; the latest")


def test_a_command_gets_its_arguments_its_environment_and_its_streams(tmp_path: Path) -> None:
    """And a sitecustomize of its own; a process that loads no model imports nothing for it."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.mine = __file__\n")
    program = (
        "import json, os, sys, sitecustomize\n"
        "heavy = [name for name in ('torch', 'transformers', 'kvpress_video') if name in sys.modules]\n"
        "print(json.dumps([sys.argv, sys.stdin.read(), sys.mine, sitecustomize.__file__, heavy, dict(os.environ)]))\n"
    )
    done = run(sys.executable, "-c", program, "--budget", "-x", "a b", path=tmp_path, input="spoken to")
    assert done.returncode == 0, done.stderr
    arguments, heard, mine, customised, heavy, environment = json.loads(done.stdout)
    assert arguments == ["-c", "--budget", "-x", "a b"]
    assert heard == "spoken to"
    assert mine == customised == str(tmp_path / "sitecustomize.py")
    assert heavy == []
    first, *others = environment.pop("PYTHONPATH").split(os.pathsep)
    assert (Path(first) / "sitecustomize.py").is_file()
    assert others == [str(tmp_path)]
    settings = environment.pop("KVPRESS_VIDEO_RUN")
    assert json.loads(settings) == {
        "method": "infinipot-v", "budget": 40, "stage": "cache", "positions": "keep", "labels": "spread",
    }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert {name: value for name, value in environment.items() if name not in ("LC_CTYPE", "_")} == {
        name: value for name, value in inherited.items() if name not in ("LC_CTYPE", "_")
    }


def test_a_python_without_the_package_runs_with_a_warning(tmp_path: Path) -> None:
    """Imitated: a library that loads models, and an installation where ours cannot be imported."""
    for name, text in {
        "transformers/__init__.py": "",
        "transformers/modeling_utils.py": (
            "class PreTrainedModel:\n"
            "    @classmethod\n"
            "    def from_pretrained(cls, name, *, config=None):\n"
            "        '''Load.'''\n"
            "        return cls, name, config\n"
        ),
        "kvpress_video/__init__.py": "raise ImportError('not installed here')\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    program = (
        "from transformers import modeling_utils\n"
        "class Model(modeling_utils.PreTrainedModel): pass\n"
        "assert Model.from_pretrained('x', config=1) == (Model, 'x', 1)\n"
        "assert Model.from_pretrained.__doc__ == 'Load.'\n"
        "assert 'SourceFileLoader' in repr(modeling_utils.__loader__) + repr(modeling_utils.__spec__.loader)\n"
    )
    done = run(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"kvpress-video: Model is NOT compressed: not installed here ({sys.executable})\n"


def test_a_terminated_process_reports_and_ends_as_usual() -> None:
    """Also after a server took the signal for a while; a child that it forks goes by itself."""
    program = (
        "import os, signal, sys, types\n"
        "before = signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "deployment = types.SimpleNamespace(log_all_stats=lambda: print('said', flush=True))\n"
        "sys.modules['kvpress_video.serving.deployment'] = deployment\n"
        "signal.signal(signal.SIGTERM, before)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert os.waitpid(child, 0)[1] == signal.SIGTERM\n"
        "print('forked', flush=True)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = run(sys.executable, "-c", program)
    assert done.stdout == "forked\nsaid\n", done.stderr
    assert done.returncode == -signal.SIGTERM


def test_processes_outside_a_run_are_left_alone() -> None:
    """The folder may still be on the path of a process whose environment was cleaned."""
    from kvpress_video.serving.launch import STARTUP

    program = "import sys; print([type(finder).__name__ for finder in sys.meta_path if 'LoadHook' in repr(finder)])"
    environment = {"PYTHONPATH": str(STARTUP)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "infinipot", "--budget", "40", "--", "true"], "Did you mean 'infinipot-v'"),
        (["--method", "tar:ratio=1", "--budget", "40", "--", "true"], "Unknown setting of tar 'ratio'"),
        (["--method", "tar", "--budget", "40 entries", "--", "true"], "Unknown unit 'entries'"),
        (["--method", "tar", "--budget", "0", "--", "true"], "above zero"),
        (["--method", "tar", "--budget", "40", "--prefill", "chunks", "--", "true"], "Did you mean 'chunked'"),
        (["--method", "tar", "--budget", "25%", "--prefill", "chunked", "--", "true"], "needs chunk="),
        (["--method", "tar", "--budget", "40", "--chunk", "0", "--", "true"], "at least one visual token"),
        (
            ["--method", "tar", "--budget", "40", "--stage", "input", "--", "true"],
            "works in the cache only: pass stage='c",
        ),
        (["--method", "tar", "--budget", "40"], "There is no command to run"),
        (["--method", "tar", "--budget", "40", "--"], "There is no command to run"),
        (["--method", "tar", "--budget", "40", "--", "no-such-program"], "There is no command 'no-such-program'"),
    ],
)
def test_what_is_wrong_is_said_before_the_command_starts(
    capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["run", *arguments]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("kvpress-video: ")
    assert message in line


def test_a_command_that_cannot_be_started(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "server"
    file.write_bytes(b"\x7fELF, but not really")
    file.chmod(0o755)
    assert main(["run", "--method", "tar", "--budget", "40", "--", str(file)]) == 2
    assert f"Cannot start '{file}': " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("command", "installed", "said"),
    [
        (["transformers", "serve", "model"], False, True),
        (["/venv/bin/transformers", "serve"], False, True),
        (["transformers", "serve"], True, False),
        (["transformers", "chat"], False, False),
        (["python", "serve"], False, False),
        (["transformers"], False, False),
    ],
)
def test_a_server_without_its_decoder_is_noticed(
    monkeypatch: pytest.MonkeyPatch, command: list[str], installed: bool, said: bool
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object() if installed else None)
    note = launch.missing_decoder(command)
    assert (note is not None and "torchcodec" in note) is said
