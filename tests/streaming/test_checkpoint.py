"""Sessions that go to a file and come back: in another process, after a crash, and only with their own model."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved_sessions
import torch
import zoo
from forged_sessions import forge, parts
from generation import METHODS, SETTINGS
from kvpress_video.methods.novelty import Novelty
from safetensors import safe_open
from safetensors.torch import load_file
from saved_sessions import SESSIONS, frames, lived, plain, same
from sessions import PER_FAMILY, cache_of, check_same, footage, frames_for, tiny, usage_of

import kvpress_video as kv
from kvpress_video.compressor.entries import Places
from kvpress_video.models.fingerprint import difference, fingerprint
from kvpress_video.streaming.checkpoint import read_snapshot, write_snapshot


@pytest.fixture(scope="module")
def folder(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of sessions, each with the logits that another process got from it."""
    found = tmp_path_factory.mktemp("sessions")
    for name, options in SESSIONS.items():
        lived(*bundled, **options).save(found / f"{name}.kvv")
    saved_sessions.go_on_elsewhere(found)
    return found


@pytest.mark.sampled
@pytest.mark.parametrize("name", SESSIONS)
def test_another_process_continues_as_this_one_would(name: str, folder: Path, bundled: Any) -> None:
    session = lived(*bundled, **SESSIONS[name])
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        facts = file.metadata()
    assert facts["turns"] == json.dumps(session.turns)
    assert len(session.turns) == 2
    assert facts["stats"] == str(session.stats)
    assert session.stats.waiting
    assert same(load_file(folder / f"{name}.safetensors"), saved_sessions.go_on(session))


@pytest.mark.parametrize("name", SESSIONS)
def test_a_file_gives_back_every_bit(name: str, folder: Path, bundled: Any) -> None:
    snapshot = lived(*bundled, **SESSIONS[name]).snapshot()
    found = read_snapshot(folder / f"{name}.kvv", bundled[0])
    assert same(found.tensors, snapshot.tensors)
    assert found.state == snapshot.state


def test_sessions_that_have_seen_nothing_or_no_frames(tmp_path: Path, bundled: Any) -> None:
    session = kv.VideoSession(*bundled, budget=200)
    for _ in range(2):
        session.save(tmp_path / "a.kvv")
        loaded = kv.VideoSession.load(tmp_path / "a.kvv", *bundled)
        assert loaded.stats == session.stats
        assert loaded.ask("hello?", max_new_tokens=4) == session.ask("hello?", max_new_tokens=4)


@pytest.mark.parametrize("budget", ["1.5GB", "1234567B", 6144, kv.Budget(2_000_001, "bytes")])
def test_a_budget_is_unchanged(budget: Any, tmp_path: Path, bundled: Any) -> None:
    session = kv.VideoSession(*bundled, budget=budget)
    session.save(tmp_path / "a.kvv")
    assert kv.VideoSession.load(tmp_path / "a.kvv", *bundled).stream.text_left() == session.stream.text_left()


def test_a_session_that_broke_cannot_be_copied(tmp_path: Path, bundled: Any) -> None:
    session = lived(*bundled, budget=200)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    hook = bundled[0].get_decoder().layers[2].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        session.push(frames(24))
    hook.remove()
    for copy in (session.fork, session.snapshot, lambda: session.save(tmp_path / "a.kvv")):
        with pytest.raises(kv.CacheError, match="failed halfway"):
            copy()
    assert not list(tmp_path.iterdir())


def test_importance_that_is_no_number_comes_back_as_it_was(tmp_path: Path, bundled: Any) -> None:
    """The only values that may be NaN: importance that was not captured."""
    snapshot = lived(*bundled, budget=200).snapshot()
    importance = snapshot.tensors["layers.2.places"].view(torch.int32)[..., Places.IMPORTANCE]
    importance[0, 1, ::7] = 0x7FC00123  # a NaN with a payload
    write_snapshot(tmp_path / "a.kvv", snapshot, bundled[0])
    assert same(read_snapshot(tmp_path / "a.kvv", bundled[0]).tensors, snapshot.tensors)


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    model, processor = kv.load_bundled(device="cpu", dtype=torch.bfloat16)
    session = lived(model, processor, budget=200)
    session.save(tmp_path / "a.kvv")
    loaded = kv.VideoSession.load(tmp_path / "a.kvv", model, processor)
    assert loaded.snapshot().tensors["layers.0.keys"].dtype == torch.bfloat16
    assert same(saved_sessions.go_on(loaded), saved_sessions.go_on(session))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_files_move_between_devices(tmp_path: Path, bundled: Any) -> None:
    there = kv.load_bundled(device="cuda")
    assert difference(fingerprint(bundled[0]), fingerprint(there[0])) is None
    session = lived(*bundled, budget=200)
    session.save(tmp_path / "a.kvv")
    moved = kv.VideoSession.load(tmp_path / "a.kvv", *there)
    assert moved.stream.layers[0].keys.is_cuda
    moved.save(tmp_path / "b.kvv")
    back = kv.VideoSession.load(tmp_path / "b.kvv", *bundled)
    assert same(saved_sessions.go_on(back), saved_sessions.go_on(session))
    assert moved.ask("what is there now?", max_new_tokens=5)


def test_what_was_loaded_does_not_depend_on_the_file(tmp_path: Path, bundled: Any) -> None:
    path = tmp_path / "a.kvv"
    lived(*bundled, budget=200).save(path)
    found = read_snapshot(path, bundled[0])
    kept = {name: tensor.clone() for name, tensor in found.tensors.items()}
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(found.tensors, kept)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": Novelty()}, r"method=Novelty\("),
        ({"method": "detachable", "scorer": Novelty()}, r"scorer=Novelty\("),
        ({"method": "standby", "tokens": torch.zeros(2, 96)}, "tokens=tensor"),
    ],
)
def test_objects_cannot_be_written(options: dict[str, Any], said: str, tmp_path: Path, bundled: Any) -> None:
    session = kv.VideoSession(*bundled, budget=200, **options)
    session.push(frames(40))
    with pytest.raises(kv.CacheError, match=f"A file cannot hold {said}.*method's name and plain settings"):
        session.save(tmp_path / "a.kvv")
    assert not list(tmp_path.iterdir())


# --- The model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_model_is_known_by_what_it_computes_with(family: str) -> None:
    model = zoo.build(family)
    known = fingerprint(model)
    assert plain(known) == known
    assert difference(known, fingerprint(zoo.build(family, attention="sdpa"))) is None
    assert difference(known, fingerprint(zoo.build(family, dtype=torch.bfloat16))) == "in float32, not bfloat16"
    fewer = difference(known, fingerprint(zoo.build(family, layers=3)))
    assert fewer is not None
    assert "num_hidden_layers=4, not 3" in fewer or "layer_types" in fewer
    model.config.text_config.rms_norm_eps *= 2
    assert "rms_norm_eps" in str(difference(known, fingerprint(model)))


PARTS = {
    "the last tenth": lambda parameter: parameter.view(-1)[-(parameter.numel() // 10) or -1 :],
    "every fourth column": lambda parameter: parameter[..., 1::4],
}


@pytest.mark.parametrize("part", PARTS)
def test_every_parameter_counts(part: str, bundled: Any) -> None:
    model, _ = bundled
    known = fingerprint(model)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            kept = parameter.clone()
            PARTS[part](parameter).mul_(1.001).add_(1e-6)
            assert "other weights" in str(difference(known, fingerprint(model))), name
            parameter.copy_(kept)
    assert difference(known, fingerprint(model)) is None


def test_a_fine_tuned_model_is_refused(tmp_path: Path, bundled: Any) -> None:
    path = tmp_path / "a.kvv"
    lived(*bundled, budget=200).save(path)
    model, processor = kv.load_bundled(device="cpu")
    assert kv.VideoSession.load(path, model, processor).turns
    model.lm_head.weight.data.mul_(1.001)
    with pytest.raises(kv.CacheError, match=r"a\.kvv was made with a model with other weights.* load the model that"):
        kv.VideoSession.load(path, model, processor)
    with pytest.raises(kv.CacheError, match="model in float32, not bfloat16"):
        kv.VideoSession.load(path, model.to(torch.bfloat16), processor)
    with pytest.raises(kv.CacheError, match="model with image_token_id=1001, not 248"):
        kv.VideoSession.load(path, zoo.build("qwen2_5_vl"), processor)


def test_a_model_saved_and_loaded_again_is_the_same(tmp_path: Path, bundled: Any) -> None:
    model = bundled[0]
    model.save_pretrained(tmp_path)
    assert difference(fingerprint(model), fingerprint(type(model).from_pretrained(tmp_path))) is None


def test_configurations_that_other_versions_spell_otherwise(bundled: Any) -> None:
    known = fingerprint(bundled[0])
    older = plain(known) | {"transformers": "4.0"}
    older["config"] = {name: value for name, value in known["config"].items() if "rope" not in name} | {"top_k": 50}
    assert difference(older, known) is None


def test_a_model_that_is_not_in_memory(bundled: Any) -> None:
    with torch.device("meta"):
        model = type(bundled[0])(bundled[0].config)
    with pytest.raises(kv.CacheError, match=r"not in memory.* load it without offloading"):
        fingerprint(model)


# --- Detach, move, attach ---------------------------------------------------------------------------------------------


def state(session: kv.VideoSession) -> tuple[dict[str, torch.Tensor], Any]:
    snapshot = session.snapshot()
    return {name: tensor.clone() for name, tensor in snapshot.tensors.items()}, repr(snapshot.state)


COPIED = ("keep", "full", "banked")  # buffers with room, buffers that grow under rescaled positions, buffers elsewhere


@pytest.mark.sampled
@pytest.mark.parametrize("name", COPIED)
@pytest.mark.parametrize("moves", ["original", "fork"])
def test_a_fork_goes_its_own_way(name: str, moves: str, bundled: Any) -> None:
    session = lived(*bundled, **SESSIONS[name])
    fork = session.fork()
    goes, stays = (session, fork) if moves == "original" else (fork, session)
    tensors, host = state(stays)
    expected = saved_sessions.go_on(lived(*bundled, **SESSIONS[name]))
    assert same(saved_sessions.go_on(goes), expected)
    assert same(state(stays)[0], tensors)
    assert state(stays)[1] == host
    assert same(saved_sessions.go_on(stays), expected)


@pytest.mark.parametrize("name", COPIED)
def test_a_snapshot_can_be_restored_again_and_again(name: str, bundled: Any) -> None:
    snapshot = lived(*bundled, **SESSIONS[name]).snapshot()
    kept, host = {part: tensor.clone() for part, tensor in snapshot.tensors.items()}, repr(snapshot.state)
    first, second = (kv.VideoSession.restore(snapshot.to("cpu"), *bundled) for _ in range(2))
    went = saved_sessions.go_on(first)
    assert same(snapshot.tensors, kept)
    assert repr(snapshot.state) == host
    assert same(saved_sessions.go_on(second), went)
    assert len(second.turns) == 4


@pytest.mark.parametrize("method", METHODS)
def test_sessions_of_every_method_come_back(method: str, tmp_path: Path) -> None:
    """The entries that a method keeps are consistent, as is every budget."""
    path = tmp_path / "a.kvv"
    for budget, options in ((24, {}), ("400KB", {"text_room": 60, "positions": "keep"})):
        session = tiny(method, budget, chunk=12, **options, **SETTINGS.get(method, {}))
        for seed in range(3):
            session.push(footage(15, seed=seed))
            session.ask("What?", max_new_tokens=3, keep=seed != 1)
            session.push(footage(3, seed=seed), session.stats.seconds + np.array([0.1, 7, 300]))
            session.save(path)
            loaded = kv.VideoSession.load(path, session.model, session.processor)
            check_same(cache_of(loaded), cache_of(session))
            assert (loaded.stats, loaded.turns) == (session.stats, session.turns)
        check_same(usage_of(loaded), usage_of(session))


@pytest.mark.parametrize("family", PER_FAMILY)
def test_sessions_of_every_family_come_back(family: str, tmp_path: Path) -> None:
    path, session = tmp_path / "a.kvv", tiny("infinipot-v", 40, family, position_limit=700)
    for seed in range(6):
        session.push(frames_for(family, 15, seed=seed))
        session.ask("What?", max_new_tokens=3)
        session.save(path)
        loaded = kv.VideoSession.load(path, session.model, session.processor)
        check_same(cache_of(loaded), cache_of(session))
        reserved = session.stats.reserved_bytes  # of buffers that grew in pieces
        assert (replace(loaded.stats, reserved_bytes=reserved), loaded.turns) == (session.stats, session.turns)


def keys_of(value: Any) -> Any:
    """Names in JSON, with the type of each value."""
    if isinstance(value, dict):
        return {name: keys_of(item) for name, item in value.items()}
    return [keys_of(item) for item in value[:1]] if isinstance(value, list) else type(value)


def test_the_json_of_format_3(tmp_path: Path, bundled: Any) -> None:
    """Written as it is read: by every version that writes format 3."""
    session = lived(*bundled, method="infinipot-v", budget="1500KB", text_room=80, tar_ratio=0.25, bank_on="cpu")
    session.push(frames(16, seed=3))
    session.flush()
    session.save(tmp_path / "a.kvv")
    with safe_open(tmp_path / "a.kvv", "pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"format", "version", "facts", "sha256"}
    assert (metadata["format"], metadata["version"]) == ("kvpress-video session", "3")
    found = json.loads(metadata["facts"])
    assert found["model"] == plain(fingerprint(bundled[0]))
    assert found["session"]["recipe"] == {
        "method": "infinipot-v",
        "budget": "1500000B",
        "positions": "compact",
        "chunk": 63,
        "fps": 2.0,
        "system": None,
        "text_room": 80,
        "position_limit": None,
        "bank_on": "cpu",
        "quantize": "none",
        "experts": None,
        "labels": "spread",
        "keep_turns": "all",
        "tar_ratio": 0.25,
    }
    moment = {"position": float, "seconds": float, "frame": int}
    counts = {"padding": int, "held": {"0": int}, "seen": {"0": int}, "grids": {"0": [int]}, "starts": {}}
    counts |= {"labels": {}, "labels_seen": {}}
    assert keys_of({name: part for name, part in found["session"].items() if name != "recipe"}) == {
        "stream": {
            "logical": int,
            "rows": [counts | {"loose": bool, "shift": int, "following": int}],
            "timeline": {
                "spatial": bool,
                "grid": [int],
                "runs": [{"start": int, "end": int, "least": int}],
                "base": moment,
                "last": moment,
                "labelled": bool,
                "gaps": [],
            },
            "peak_bytes": int,
            "evicted_text": int,
        },
        "talk": {
            "turns": [[str]],
            "begun": bool,
            "watching": bool,
            "unsaid": [],
            "tokens": [
                {"opening": {"tokens": [int], "closes_video": bool}, "text": [int], "reopening": [int]},
            ],
            "opening": type(None),
            "evicted": int,
        },
        "inbox": {"count": int, "last_time": float, "size": [int], "told": float, "untold": int},
    }


def test_a_file_of_format_2_is_read_too(tmp_path: Path, bundled: Any) -> None:
    """It has nothing of labels, and its turns never leave."""
    session = lived(*bundled, budget=200)
    session.save(tmp_path / "a.kvv")
    metadata, facts, tensors = parts(tmp_path / "a.kvv")
    del facts["session"]["recipe"]["labels"], facts["session"]["stream"]["timeline"]["labelled"]
    for row in facts["session"]["stream"]["rows"]:
        del row["labels"], row["labels_seen"]
    del facts["session"]["recipe"]["keep_turns"], facts["session"]["stream"]["evicted_text"]
    del facts["session"]["stream"]["timeline"]["gaps"]
    for name in ("tokens", "opening", "evicted"):
        del facts["session"]["talk"][name]
    forge(tmp_path / "old.kvv", metadata | {"version": "2"}, json.dumps(facts), tensors)
    loaded = kv.VideoSession.load(tmp_path / "old.kvv", *bundled)
    state = session.snapshot().state
    assert loaded.snapshot().state == replace(state, conversation=replace(state.conversation, tokens=()))
    assert same(saved_sessions.go_on(loaded), saved_sessions.go_on(session))


def test_a_snapshot_can_be_sent_to_another_process(bundled: Any) -> None:
    session = lived(*bundled, budget=200)
    sent = pickle.loads(pickle.dumps(session.snapshot()))
    assert sent.state == session.snapshot().state
    assert same(saved_sessions.go_on(kv.VideoSession.restore(sent, *bundled)), saved_sessions.go_on(session))


def test_the_package_is_imported_without_pydantic() -> None:
    """It is for saving and loading alone."""
    code = "import sys, kvpress_video; sys.exit('pydantic' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code]).returncode
