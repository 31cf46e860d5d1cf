"""On a CUDA device: the same answers as on the CPU, and models spread over devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, model_of, video_prompt

import kvpress_video as kv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _exact_products() -> Any:
    """No TF32, so that devices can be compared."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_cuda_equals_cpu(method: str, family: str) -> None:
    on_cpu, on_gpu = model_of(family), zoo.build(family, "sdpa").cuda()
    prompts, found = [video_prompt(family), video_prompt(family, 6)], []
    prompts[1] = zoo.Prompt([zoo.Text(5, seed=6), *prompts[1].parts])
    for model in (on_cpu, on_gpu):
        with kv.compress(model, method, "40%", **SETTINGS.get(method, {})) as run:
            out = answer(model, zoo.inputs(model, prompts))
        found.append((run.report, [kept.cpu() for kept in run.kept], out.logits.cpu()))
    assert found[0][0] == found[1][0]
    agreed = [torch.equal(*pair) for pair in zip(found[0][1], found[1][1], strict=True)]
    assert all(agreed), f"layers that keep other entries: {[i for i, same in enumerate(agreed) if not same]}"
    torch.testing.assert_close(found[0][2], found[1][2], rtol=0, atol=1e-3)


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("stage", ["cache", "input"])
def test_layers_on_two_devices(family: str, stage: Any) -> None:
    """The later half of the text layers runs on the CPU; accelerate moves what passes between."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    whole, split = model_of(family), zoo.build(family, "sdpa").cuda()
    text = split.get_decoder()
    for layer in text.layers[2:]:
        layer.to("cpu")
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    expected: list[Any] = []
    found: list[Any] = []
    for model, seen in ((whole, expected), (split, found)):
        with kv.compress(model, "random", "40%", stage=stage, positions="compact") as run:
            out = answer(model, zoo.inputs(model, [video_prompt(family)])).output
        seen += [torch.stack(out.logits).cpu(), run.report]
    assert out.past_key_values.layers[3].keys.device.type == "cpu"
    assert out.past_key_values.layers[0].tags.device.type == "cuda"
    assert expected[1] == found[1]
    torch.testing.assert_close(expected[0], found[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_on_cuda(method: str) -> None:
    model = zoo.build(zoo.FAMILIES[0], "sdpa", torch.bfloat16).cuda()
    with kv.compress(model, method, "25%", **SETTINGS.get(method, {})) as run:
        out = answer(model, zoo.inputs(model, [video_prompt(zoo.FAMILIES[0], 12)]))
    assert out.logits.isfinite().all()
    assert run.report.ratio == 0.25
