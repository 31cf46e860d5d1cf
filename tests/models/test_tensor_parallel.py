"""A model whose heads two processes share keeps the entries that one process keeps, and says the same.

Both do everything below once, on CPU with gloo, and leave what they found in files; so does this process, with the
whole model.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers
import zoo
from generation import METHODS, SETTINGS, Answer, answer
from sessions import TinyProcessor, ask, footage, usage_of
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.registry import make_method
from kvpress_video.streaming.checkpoint import read_snapshot

PROCESSES = 2
LAST = PROCESSES - 1
QWEN = "qwen2_5_vl"
OTHERS = [family for family in ("qwen2_vl", "qwen3_vl", "llava_onevision") if family in zoo.FAMILIES]
VARIANTS = ["hermes:summary=True", "streammem:prototypes=1.0", "per-layer:base=snapkv", "random:seed=3"]
RUNS = [*METHODS, *VARIANTS]
BEFORE_PREFILL = [name for name in METHODS if "input" in make_method(name).stages]
SESSIONS: dict[str, dict[str, Any]] = {
    "infinipot-v": {},
    "hermes": {},
    "random": {"positions": "keep"},
    "detachable": {"scorer": "van", "window": 0.7, "bank_on": "cpu"},
}
BYTES = 160_000  # of two rows in one process
BY_HEAD = ("k_proj", "q_proj", "v_proj")
HERE = Path(__file__).parent
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
PROCESS = """
import conftest, os, pathlib, sys, test_tensor_parallel
test_tensor_parallel.work(pathlib.Path(sys.argv[1]), int(os.environ["RANK"]))
"""


def build(family: str) -> Any:
    """A model with four KV heads, two for each process."""
    found = zoo.TABLE[family]
    wider = {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
    vision = {"out_hidden_size": 128} if "qwen" in family else {}
    if family == "qwen2_vl":
        vision = {"hidden_size": 128}
    wide = replace(found, text=found.text | wider, vision=found.vision | vision)
    with patch.dict(zoo.TABLE, {family: wide}):
        return zoo.build(family, "sdpa")


def load(path: Path, processes: int) -> Any:
    """As users do; a family for whose text model transformers has no plan is given one."""
    options: dict[str, Any] = {}
    if processes > 1 and transformers.__version__.startswith("4."):
        options = {"tp_plan": "auto"}
    elif processes > 1:
        from transformers.distributed import DistributedConfig

        names = dict.fromkeys(BY_HEAD, "colwise") | {"o_proj": "rowwise"}
        plan = {f"model.language_model.layers.*.self_attn.{name}": style for name, style in names.items()}
        given = {"tp_plan": plan} if path.name == "qwen3_vl" else {"tp_plan": "auto"}
        options = {"distributed_config": DistributedConfig(tp_size=processes, **given)}
    model = transformers.AutoModelForImageTextToText.from_pretrained(path, attn_implementation="sdpa", **options)
    return model.eval()


def rows(family: str, count: int = 2) -> list[zoo.Prompt]:
    size = zoo.grid(family)
    prompts = [zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(6, *size, seed=2), zoo.Text(8, seed=3)])]
    prompts.append(zoo.Prompt([zoo.Text(9, seed=6), *prompts[0].parts]))  # the other row is padded
    return prompts[:count]


def compressed(model: Any, method: str, budget: Any, family: str = QWEN, count: int = 2, **options: Any) -> Any:
    """Kept entries of each layer, logits and report."""
    options |= {} if ":" in method else SETTINGS.get(method, {})
    with kv.compress(model, method, budget, **options) as run:
        said = answer(model, zoo.inputs(model, rows(family, count)), new=2)
    return {"kept": run.kept, "logits": said.logits, **reported(run.report), **held(said)}


def reported(report: kv.Report) -> dict[str, Any]:
    return {"bytes": report.bytes, "full": report.full_bytes, "entries": report.entries, "ratio": report.ratio}


def held(said: Answer) -> dict[str, Any]:
    return {"keys": [layer.keys.clone() for layer in said.output.past_key_values.layers]}


def lived(model: Any, method: str) -> kv.VideoSession:
    """A session that has seen frames and answered."""
    session = kv.VideoSession(model, TinyProcessor(QWEN), method, 30, **SESSIONS[method])
    session.push(footage(21, seed=1))
    ask(session, "What?")
    session.push(footage(12, seed=2))
    return session


def watched(session: kv.VideoSession) -> dict[str, Any]:
    """Entries of a session, and its answer."""
    session.flush()
    kept = [layer.kept for layer in session.stream.layers]
    keys = [layer.keys.clone() for layer in session.stream.layers]
    return {
        "kept": kept,
        "keys": keys,
        "logits": torch.stack(ask(session, "And?").logits),
        "bytes": session.stats.bytes,
    }


def served(model: Any) -> dict[str, Any]:
    handle = kv.patch(model, "hermes", 30, summary=False)
    said = answer(model, zoo.inputs(model, rows(QWEN)), new=2)
    found = {"logits": said.logits, "requests": handle.stats.requests, **held(said)}
    assert handle.stats.report is not None
    found |= reported(handle.stats.report)
    handle.remove()
    return found


def with_gradients(model: Any) -> dict[str, Any]:
    with kv.compress(model, "snapkv", "40%", prefill="whole") as run:
        logits = model(**zoo.inputs(model, rows(QWEN))).logits
    return {"kept": run.kept, "logits": logits.detach()}


def everything(folder: Path, processes: int) -> dict[str, Any]:
    """All that is compared, by name."""
    model = load(folder / QWEN, processes)
    found = {f"split {method}": compressed(model, method, "40%") for method in RUNS}
    found |= {f"chunked {method}": compressed(model, method, 40, chunk=24) for method in METHODS}
    found |= {f"input {method}": compressed(model, method, "40%", stage="input") for method in BEFORE_PREFILL}
    found["compact"] = compressed(model, "infinipot-v", "40%", positions="compact")
    found["bytes"] = compressed(model, "van", f"{BYTES // processes}B")
    found |= {f"session {method}": watched(lived(model, method)) for method in SESSIONS}
    found["patch"] = served(model)
    found["gradients"] = with_gradients(model)
    for family in OTHERS:
        other = load(folder / family, processes)
        found |= {f"{family} {method}": compressed(other, method, "40%", family, 1) for method in ("snapkv", "hermes")}
    return found


def error_of(call: Any) -> str:
    try:
        call()
    except kv.KVPressVideoError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def files(folder: Path, rank: int) -> dict[str, Any]:
    """Each process's session goes into a file of its own."""
    model, processor = load(folder / QWEN, PROCESSES), TinyProcessor(QWEN)
    session = lived(model, "hermes")
    session.save(folder / f"{rank}.kvv")
    torch.distributed.barrier()
    loaded = kv.VideoSession.load(folder / f"{rank}.kvv", model, processor)
    forked = session.fork()
    others = {"other": f"{LAST - rank}.kvv", "whole": "whole.kvv"}
    wrong = {name: error_of(partial(read_snapshot, folder / file, model)) for name, file in others.items()}
    return {"original": usage_of(session), "loaded": usage_of(loaded), "forked": usage_of(forked), "wrong": wrong}


def work(folder: Path, rank: int) -> None:
    """The life of one process."""
    torch.set_num_threads(1)
    rendezvous, patience = f"file://{folder}/rendezvous", datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", rendezvous, patience, PROCESSES, rank)
    odd = load(Path(kv.__file__).parent / "data" / "bundled", PROCESSES)
    uneven = error_of(lambda: kv.compress(odd, "random", "25%"))
    found = {"all": everything(folder, PROCESSES), "files": files(folder, rank), "uneven": uneven}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and a session of the whole one."""
    made = tmp_path_factory.mktemp("tensor_parallel")
    for family in (QWEN, *OTHERS):
        build(family).save_pretrained(made / family)
    lived(load(made / QWEN, 1), "hermes").save(made / "whole.kvv")
    return made


@pytest.fixture(scope="module")
def shares(folder: Path) -> list[dict[str, Any]]:
    """Results of each process."""
    command = [sys.executable, "-c", PROCESS, str(folder)]
    path = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent / "support")))
    environment = os.environ | ON_CPU | {"WORLD_SIZE": str(PROCESSES), "PYTHONPATH": path}
    running = []
    for rank in range(PROCESSES):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"{rank}.log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=HERE, env=environment | place, stdout=log, stderr=log))
    try:
        codes = [process.wait(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    logs = [(folder / f"{rank}.log").read_text()[-3000:] for rank in range(PROCESSES)]
    assert codes == [0] * PROCESSES, "\n".join(logs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """Results of a single process."""
    return everything(folder, 1)


def put_together(parts: list[list[Tensor]]) -> list[Tensor]:
    """Per layer, the heads of all processes in order."""
    return [torch.cat(layer, dim=1) for layer in zip(*parts, strict=True)]


def check(name: str, shares: list[dict[str, Any]], whole: dict[str, Any]) -> None:
    found, expected = [share["all"][name] for share in shares], whole[name]
    if "kept" in expected:
        kept = put_together([each["kept"] for each in found])
        assert kept[0].shape[1] == PROCESSES * found[0]["kept"][0].shape[1] > PROCESSES
        assert [torch.equal(*pair) for pair in zip(kept, expected["kept"], strict=True)] == [True] * len(kept)
    if "keys" in expected:
        torch.testing.assert_close(put_together([each["keys"] for each in found]), expected["keys"], rtol=0, atol=1e-4)
    for each in found:
        torch.testing.assert_close(each["logits"], expected["logits"], rtol=0, atol=1e-4)
        assert torch.equal(each["logits"].argmax(-1), expected["logits"].argmax(-1))
        assert each.get("bytes", 0) * PROCESSES == expected.get("bytes", 0)
        assert each.get("full", 0) * PROCESSES == expected.get("full", 0)
        same = ("entries", "ratio", "requests")
        assert [each.get(name) for name in same] == [expected.get(name) for name in same]


@pytest.mark.sampled
@pytest.mark.parametrize("method", RUNS)
def test_processes_keep_what_one_keeps(method: str, shares: list[dict], whole: dict) -> None:
    check(f"split {method}", shares, whole)


@pytest.mark.parametrize("method", METHODS)
def test_chunk_by_chunk(method: str, shares: list[dict], whole: dict) -> None:
    check(f"chunked {method}", shares, whole)


@pytest.mark.parametrize("method", BEFORE_PREFILL)
def test_before_prefill(method: str, shares: list[dict], whole: dict) -> None:
    check(f"input {method}", shares, whole)


@pytest.mark.parametrize("method", SESSIONS)
def test_sessions(method: str, shares: list[dict], whole: dict) -> None:
    check(f"session {method}", shares, whole)


@pytest.mark.parametrize("method", ["snapkv", "hermes"])
@pytest.mark.parametrize("family", OTHERS)
def test_families(family: str, method: str, shares: list[dict], whole: dict) -> None:
    check(f"{family} {method}", shares, whole)


@pytest.mark.parametrize("name", ["compact", "patch", "gradients"])
def test_other_ways_to_compress(name: str, shares: list[dict], whole: dict) -> None:
    check(name, shares, whole)


def test_a_budget_in_bytes_caps_one_process(shares: list[dict], whole: dict) -> None:
    check("bytes", shares, whole)
    for share in shares:
        assert 0.9 * BYTES / PROCESSES < share["all"]["bytes"]["bytes"] <= BYTES / PROCESSES


def test_sessions_come_back_from_each_process_s_own_file(shares: list[dict]) -> None:
    for share in shares:
        found = share["files"]
        for copy in ("loaded", "forked"):
            pairs = zip(found[copy], found["original"], strict=True)
            assert all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs)


def test_a_file_of_another_share_is_refused(shares: list[dict], folder: Path) -> None:
    for rank, share in enumerate(shares):
        wrong = share["files"]["wrong"]
        assert f"distributed as rank {LAST - rank} of {PROCESSES}, not rank {rank} of {PROCESSES}" in wrong["other"]
        assert f"distributed as rank 0 of 1, not rank {rank} of {PROCESSES}" in wrong["whole"]
        with pytest.raises(kv.CacheError, match=f"distributed as rank {rank} of {PROCESSES}, not rank 0 of 1"):
            read_snapshot(folder / f"{rank}.kvv", load(folder / QWEN, 1))


def test_heads_that_cannot_be_shared_equally(shares: list[dict]) -> None:
    for share in shares:
        assert share["uneven"].startswith("UnsupportedModelError: Qwen2_5_VLForConditionalGeneration has 3 KV heads")


def test_one_process_needs_no_distribution() -> None:
    """Neither the import nor the compression of a whole model brings in what only several processes need."""
    code = (
        "import sys, transformers.cache_utils, transformers.modeling_outputs; before = set(sys.modules); "
        "import kvpress_video as kv; kv.compress; kv.patch; "
        "new = set(sys.modules) - before; assert not any(name.startswith('torch.distributed.') for name in new), new"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@pytest.mark.slow
@pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers 4 has no DistributedConfig(tp_plan)"
)
def test_the_page_runs(tmp_path: Path, bundled: Any, clips: Any) -> None:
    """The program of docs/multi-gpu.md, under torchrun."""
    page = (Path(__file__).parents[2] / "docs" / "multi-gpu.md").read_text()
    program = tmp_path / "shared.py"
    program.write_text(page.split("```python\n")[1].split("```")[0])
    folder, question = Path(kv.__file__).parent / "data" / "bundled", "What was the first shape to flash?"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command = [*torchrun, str(program), str(folder), str(clips[0].path), question]
    alone = kv.ask(*bundled, kv.read_video(clips[0].path, fps=None), question, method="infinipot-v", budget=96)
    done = subprocess.run(command, env=os.environ | ON_CPU, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(3):
        assert f"process {rank}: {alone.text!r}; infinipot-v at 96 tokens" in done.stdout
