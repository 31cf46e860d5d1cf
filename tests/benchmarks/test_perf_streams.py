"""The benchmarks of streams and answers: what must hold of their figures on any machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from kvpress_video.benchmarks.perf import program
from kvpress_video.benchmarks.perf.cases.answer import full_seconds
from kvpress_video.benchmarks.perf.results.goals import TARGETS, Target
from kvpress_video.benchmarks.perf.results.measurement import Figure, Goal
from kvpress_video.benchmarks.perf.setup.hardware_limits import arithmetic_rate, copy_rate
from kvpress_video.benchmarks.perf.setup.long_stream import PARTS, LongStream, long_stream
from kvpress_video.benchmarks.perf.setup.scales import bed

import kvpress_video as kv

TINY = bed("tiny", "cpu")
GPU_ONLY = ("fps", "ms")  # asked of a GPU, shown of all
FRAMES = 60 * max(TINY.scale.minutes)
TOKENS = FRAMES * TINY.scale.patches[0] * TINY.scale.patches[1]


@pytest.fixture(scope="module")
def stream() -> list[Figure]:
    return list(program("stream")(TINY))


@pytest.fixture(scope="module")
def watch(stream: list[Figure]) -> LongStream:
    return long_stream(TINY)


@pytest.fixture(scope="module")
def answer(stream: list[Figure]) -> list[Figure]:
    return list(program("answer")(TINY))


def one(figures: list[Figure], what: str, case: str = "") -> Figure:
    (found,) = (figure for figure in figures if figure.what.startswith(what) and case in figure.case)
    return found


@pytest.mark.slow
def test_every_frame_of_the_stream_is_counted_once(stream: list[Figure]) -> None:
    speeds = [figure for figure in stream if figure.unit == "fps"]
    assert sum(figure.raw["frames"] for figure in speeds) == FRAMES
    assert sum(figure.raw["pictures"] for figure in speeds) == 2 * FRAMES
    for figure in speeds:
        assert figure.measured == pytest.approx(figure.raw["frames"] / figure.raw["seconds"])
        assert figure.goal is None  # thirty a second is asked of a GPU


def test_what_is_held_is_set_against_a_cache_that_kept_every_token(stream: list[Figure]) -> None:
    held = one(stream, "savings against keys and values")
    config = TINY.model()[0].config.text_config
    width = config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_key_value_heads * width * 4 * config.num_hidden_layers
    assert held.raw["visual_tokens"] == TOKENS
    assert held.raw["full_bytes"] == TOKENS * per_token
    assert held.raw["entries"] == TINY.scale.budget
    assert held.measured == pytest.approx(100 * (1 - held.raw["bytes"] / held.raw["full_bytes"]))
    assert held.floor == pytest.approx(100 * (1 - TINY.scale.budget / TOKENS))
    assert held.measured < held.floor


def test_buffers_do_not_grow(stream: list[Figure]) -> None:
    growth = one(stream, "buffers of the session")
    assert growth.raw["bytes"] == growth.raw["bytes_before"] > 0
    assert growth.goal is None  # they are there from the start
    assert one(stream, "resident memory of the process").goal == Goal(1)


def test_the_parts_make_up_the_whole(stream: list[Figure]) -> None:
    shares = {figure.case.partition(",")[0]: figure for figure in stream if figure.what == "share of frame time"}
    assert set(shares) == {*PARTS, "everything else"}
    assert sum(figure.measured for figure in shares.values()) == pytest.approx(100)
    assert all(figure.measured > 0 for figure in shares.values())
    raw = shares["compression"].raw
    assert shares["compression"].measured == pytest.approx(100 * raw["compression_seconds"] / raw["all_seconds"])
    assert raw["all_seconds"] == pytest.approx(sum(figure.raw["seconds"] for figure in stream if figure.unit == "fps"))
    floor = shares["compression"].floor
    assert floor is not None
    assert 0 < floor < 100


def test_questions_are_no_part_of_frame_time(watch: LongStream) -> None:
    first, last = watch.points
    for name in PARTS:
        assert first.parts[name] < last.parts[name] <= last.parts["all"]
    assert last.stats.text_entries == first.stats.text_entries  # a question leaves nothing behind


def test_operations_are_counted_as_linear_layers_and_attention_have_them(watch: LongStream) -> None:
    model = TINY.model()[0]
    tokens = TINY.scale.patches[0] * TINY.scale.patches[1]
    text = sum(part.numel() for part in model.model.language_model.layers.parameters() if part.ndim == 2)
    vision = sum(part.numel() for part in model.model.visual.blocks.parameters() if part.ndim == 2)
    linear = 2 * tokens * (text + 4 * vision)
    assert linear < watch.operations < 2 * linear


@pytest.mark.slow
def test_the_first_token_is_timed_from_the_question(answer: list[Figure], watch: LongStream) -> None:
    first = one(answer, "question to first token")
    assert first.measured == 1e3 * watch.points[-1].first_token > 0
    assert first.goal is None
    model, processor = TINY.model()
    session = kv.VideoSession(model, processor, "infinipot-v", TINY.scale.budget)
    session.push(np.zeros((2, 56, 56, 3), dtype=np.uint8))
    with session.answering("what is in view now?", 1) as asking:
        assert first.raw["question_tokens"] == len(asking.asked.ids)
    assert one(answer, "time to first token ÷ after 1 min").measured == pytest.approx(
        watch.points[-1].first_token / watch.points[0].first_token
    )


def test_weights_that_answer_are_those_of_layers_norm_and_head(answer: list[Figure]) -> None:
    model = TINY.model()[0]
    whole = sum(part.nbytes for part in model.parameters())
    unread = sum(part.nbytes for part in model.model.visual.parameters()) + model.get_input_embeddings().weight.nbytes
    assert one(answer, "question to first token").raw["weight_bytes"] == whole - unread


def test_the_full_cache_is_as_long_as_the_stream(answer: list[Figure]) -> None:
    full = one(answer, "a single forward pass")
    assert full.raw["entries"] == TOKENS
    assert full.measured == pytest.approx(full.raw["seconds"] / full.raw["session_seconds"])


def test_the_full_cache_is_attended_to_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    model = TINY.model()[0]
    attention = torch.nn.functional.scaled_dot_product_attention

    def watching(query: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((query.shape[2], key.shape[2]))
        return attention(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watching)
    with torch.no_grad():
        assert full_seconds(TINY, 40, 3) > 0
    assert set(seen) == {(3, 43)}
    assert len(seen) == 2 * len(model.get_decoder().layers)  # warm-up and one round, each from the same cache


@pytest.mark.parametrize("asked", [asked for asked in TARGETS if asked.benchmark in ("stream", "answer")])
def test_the_page_finds_a_figure_for_every_goal(asked: Target, stream: list[Figure], answer: list[Figure]) -> None:
    assert asked.of(stream + answer)


def test_every_goal_is_on_the_page(stream: list[Figure], answer: list[Figure]) -> None:
    for figure in stream + answer:
        assert sum(figure in asked.of([figure]) for asked in TARGETS) == (
            figure.goal is not None or figure.unit in GPU_ONLY
        )


def test_model_and_session_go_with_the_stream(watch: LongStream) -> None:
    assert not {"_session", "_frames", "_spent"} & vars(watch).keys()


def test_rates_are_those_of_a_machine() -> None:
    assert copy_rate(torch.device("cpu")) > 1e7
    assert arithmetic_rate(torch.device("cpu"), torch.float32) > 1e7
