"""Frames that are read once more after each chunk: as a second copy of the video, and forgotten afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import zoo
from generation import answer, model_of, two_videos, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, Queries

QWEN = zoo.FAMILIES[0]


@dataclass(frozen=True)
class Recorder(Compressor):
    """Keeps the shortest keys, and remembers the queries that it was given in the first layer."""

    probe: int = 3
    calls: list[Queries] = field(default_factory=list, compare=False)
    places: list[Tensor] = field(default_factory=list, compare=False)

    needs: ClassVar[frozenset[str]] = frozenset({"probe", "reconstruction"})

    def scores(self, entries: Entries) -> Tensor:
        queries = entries.context.queries
        assert queries is not None
        if entries.context.layer == 0:
            self.calls.append(queries)
            self.places.append(entries.position[0, 0].clone())
        return -entries.keys.float().norm(dim=-1)


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_repetition_changes_nothing_where_everything_is_kept(family: str, positions: Any) -> None:
    model = model_of(family, "eager")
    for prompts in (zoo.default_prompts(family), [two_videos(family)]):
        inputs = zoo.inputs(model, prompts)
        stock = answer(model, inputs)
        with kv.compress(model, Recorder(), 10_000, chunk=26, positions=positions):
            ours = answer(model, inputs)
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_it_is_read_as_a_second_copy_of_the_video(family: str) -> None:
    """The queries of the first layer are those of the same tokens further on; later ones see both copies."""
    model, method = model_of(family, "eager"), Recorder()
    inputs = zoo.inputs(model, [video_prompt(family)])
    with kv.compress(model, method, "50%") as run:
        answer(model, inputs, new=1)
    [queries] = method.calls
    framed = run.report.visual_tokens + run.report.label_tokens
    assert queries.states.shape[2] == 3 + framed
    assert queries.positions is not None
    assert (queries.index.diff(dim=1) > 0).all()
    asked, frames = queries.positions[0, :3], queries.positions[0, 3:]
    assert (frames >= asked.max() + 1).all()
    assert float(frames.min()) == float(asked.max()) + 1
    if not run.report.label_tokens:
        own = method.places[0]
        torch.testing.assert_close(frames - frames.amin(), own - own.amin())


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_repeated_frames_carry_what_the_frames_carry(family: str) -> None:
    """The first layer is given the same embeddings twice, with the probe between."""
    model, method = model_of(family, "eager"), Recorder()
    first: Any = model.get_decoder().layers[0].self_attn
    given: list[Tensor] = []
    handle = first.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["hidden_states"]), with_kwargs=True
    )
    inputs = zoo.inputs(model, [video_prompt(family)])
    with handle, kv.compress(model, method, "50%"):
        answer(model, inputs, new=1)
    states, count = given[0][0], method.calls[0].states.shape[2] - 3
    assert len(states) > 2 * count
    torch.testing.assert_close(states[-count:], states[-2 * count - 3 : -count - 3])


def test_the_repetition_decides_and_not_the_probe_alone() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN, 12)])
    kept = []
    for method in ("kvzip", "streammem:prototypes=0.0"):
        with kv.compress(model, method, "25%") as run:
            answer(model, inputs, new=1)
        kept.append(run.kept[-1])
    assert not torch.equal(*kept)
