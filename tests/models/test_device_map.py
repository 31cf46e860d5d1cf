"""A model that `device_map` spreads, or that is partly offloaded, keeps the entries that a whole one keeps.

On a CPU only offloading can be had: accelerate's hooks bring the weights of such layers from disk for each call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, model_of, video_prompt
from sessions import TinyProcessor, ask, cache_of, check_same, footage, usage_of

import kvpress_video as kv

QWEN = "qwen2_5_vl"
OFFLOADED = ("layers", "vision", "everything")


def placed(model: Any, first: Any, second: Any, visual: Any) -> dict[str, Any]:
    """A device map: half of the text layers here, half there."""
    text = next(name for name, module in model.named_modules() if module is model.get_decoder())
    inner = {f"model.{name}": visual for name, _ in model.model.named_children() if f"model.{name}" != text}
    parts = {f"{text}.{name}": first for name, _ in model.get_decoder().named_children() if name != "layers"}
    half = len(model.get_decoder().layers) // 2
    layers = {f"{text}.layers.{number}": first if number < half else second for number in range(2 * half)}
    loose = {f"model.{name}": first for name, _ in model.model.named_parameters(recurse=False)}
    return {"lm_head": first} | inner | loose | parts | layers


def dispatched(kind: str, folder: Path, family: str = QWEN) -> Any:
    from accelerate import disk_offload, dispatch_model

    model = zoo.build(family, "sdpa")
    if kind == "everything":
        return disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    places = placed(model, "cpu", "disk", "disk" if kind == "vision" else "cpu")
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.fixture(scope="module", params=OFFLOADED)
def spread(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with some of its weights on disk."""
    model = dispatched(request.param, tmp_path_factory.mktemp("offloaded"))
    assert model.get_decoder().layers[-1].self_attn.k_proj.weight.is_meta
    return model


def compressed(model: Any, method: str, family: str = QWEN, budget: Any = "40%", **options: Any) -> list[Any]:
    prompts = [video_prompt(family), zoo.Prompt([zoo.Text(5, seed=6), *video_prompt(family).parts])]
    with kv.compress(model, method, budget, **SETTINGS.get(method, {}) | options) as run:
        said = answer(model, zoo.inputs(model_of(family), prompts))
    layers = said.output.past_key_values.layers
    assert {layer.keys.device.type for layer in layers} == {layer.tags.device.type for layer in layers} == {"cpu"}
    return [run.report, *run.kept, *(layer.keys for layer in layers), said.logits]


def check(found: list[Any], expected: list[Any]) -> None:
    """Bit for bit: the same weights, on the same device."""
    assert found[0] == expected[0]
    check_same(found[1:], expected[1:])


@pytest.mark.sampled
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_same(method: str, spread: Any) -> None:
    check(compressed(spread, method), compressed(model_of(QWEN), method))


@pytest.mark.parametrize("family", [family for family in ("qwen3_vl", "llava_next_video") if family in zoo.FAMILIES])
@pytest.mark.parametrize("method", ["snapkv", "standby"])
def test_families(method: str, family: str, tmp_path: Path) -> None:
    spread = dispatched("vision", tmp_path, family)
    check(compressed(spread, method, family), compressed(model_of(family), method, family))


WAYS: dict[str, dict[str, Any]] = {
    "chunked": {"method": "infinipot-v", "budget": 40, "chunk": 24},
    "bytes, compact": {"method": "van", "budget": "160KB", "positions": "compact"},
    "before prefill": {"method": "average-pooling", "stage": "input"},
    "learned tokens": {"method": "standby", "tokens": torch.linspace(-2, 2, 128).reshape(4, 32).sin()},
}


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_compress(way: str, spread: Any) -> None:
    check(compressed(spread, **WAYS[way]), compressed(model_of(QWEN), **WAYS[way]))


def as_transformers_loads_it(folder: Path) -> Any:
    """`from_pretrained(device_map=…)`."""
    whole = model_of(QWEN)
    whole.save_pretrained(folder / "model")
    places = placed(whole, "cpu", "disk", "cpu")
    options = {"device_map": places, "offload_folder": str(folder / "offloaded"), "attn_implementation": "sdpa"}
    return type(whole).from_pretrained(folder / "model", **options).eval()


def test_as_transformers_loads_it(tmp_path: Path) -> None:
    model = as_transformers_loads_it(tmp_path)
    assert model.get_decoder().layers[-1].self_attn.k_proj.weight.is_meta
    check(compressed(model, "snapkv"), compressed(model_of(QWEN), "snapkv"))


def test_the_model_is_as_it_was(spread: Any) -> None:
    prompt = zoo.inputs(model_of(QWEN), [video_prompt(QWEN)])
    before = answer(spread, prompt).logits
    compressed(spread, "random")
    assert torch.equal(answer(spread, prompt).logits, before)


def session_of(model: Any, method: str = "infinipot-v") -> kv.VideoSession:
    session = kv.VideoSession(model, TinyProcessor(QWEN), method, 30, **SETTINGS.get(method, {}))
    session.push(footage(21, seed=1))
    return session


def told(model: Any) -> list[torch.Tensor]:
    session = session_of(model, "streammem")
    return [*ask(session, "What?").logits, *cache_of(session)]


def forked(model: Any) -> list[torch.Tensor]:
    return usage_of(session_of(model).fork())


def moved(model: Any) -> list[torch.Tensor]:
    """A session of a whole model goes on here."""
    taken = session_of(model_of(QWEN)).snapshot()
    return usage_of(kv.VideoSession.restore(taken, model, TinyProcessor(QWEN)))


def several(model: Any) -> list[torch.Tensor]:
    sessions = [session_of(model), session_of(model, "van")]
    kv.ask_all(sessions, ["What?", "And there?"], max_new_tokens=4)
    return [part for session in sessions for part in cache_of(session)]


def served(model: Any) -> list[torch.Tensor]:
    with kv.patch(model, "hermes", 30):
        return [answer(model, zoo.inputs(model_of(QWEN), [video_prompt(QWEN)])).logits]


@pytest.mark.sampled
@pytest.mark.parametrize("use", [told, forked, moved, several, served])
def test_sessions_and_deployments(use: Callable[[Any], list[torch.Tensor]], spread: Any) -> None:
    check_same(use(spread), use(model_of(QWEN)))


def test_files_need_the_whole_model(spread: Any, tmp_path: Path) -> None:
    """Which model a file belongs to is told by its weights."""
    with pytest.raises(kv.CacheError, match="is not in memory, so the model cannot be told from others"):
        session_of(spread).save(tmp_path / "a.kvv")
    assert not list(tmp_path.iterdir())


PAIRS = [("cuda:0", "cuda:1"), ("cuda:0", "cpu")]  # what is on "cpu" is brought to cuda:0 for each call


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_devices(pair: tuple[str, str], method: str) -> None:
    from accelerate import dispatch_model

    first, second = pair
    if second.startswith("cuda") and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    whole, split = zoo.build(QWEN, "sdpa").to(first), zoo.build(QWEN, "sdpa")
    split = dispatch_model(split, placed(split, first, second, first), main_device=first)
    found = []
    for model in (whole, split):
        with kv.compress(model, method, "40%", **SETTINGS.get(method, {})) as run:
            said = answer(model, zoo.inputs(model, [video_prompt(QWEN)], device=first))
        found.append((run.report, [kept.cpu() for kept in run.kept], said.logits.cpu()))
    last = said.output.past_key_values.layers[-1]
    assert str(last.keys.device) == str(last.tags.device) == (second if second.startswith("cuda") else first)
    assert found[0][0] == found[1][0]
    check_same(found[1][1], found[0][1])
    torch.testing.assert_close(found[1][2], found[0][2], rtol=0, atol=1e-4)
