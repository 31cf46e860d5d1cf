"""Sessions against the stock model on the whole conversation, and against sessions that were used otherwise."""

from __future__ import annotations

import gc
import inspect
import math
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, model_of
from PIL import Image
from sessions import (
    LABELS,
    OPTIONS,
    PLACED,
    QWEN,
    STREAMED,
    Notes,
    TinyProcessor,
    ask,
    cache_of,
    check_same,
    footage,
    frames_for,
    spelled,
    tiny,
    usage_of,
)
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Kind, Tags
from kvpress_video.models import adapter_for

# --- The stock model on the whole conversation ------------------------------------------------------------------------


@dataclass
class Watched:
    """Frames that no text interrupts, and when each was shown."""

    frames: Any
    times: Sequence[float]


@dataclass
class Asked:
    question: str
    reply: list[int]


@torch.no_grad()
def stock_logits(
    model: Any, processor: Any, events: Sequence[Watched | Asked], system: str | None = None
) -> list[Tensor]:
    """Logits of every answer, (tokens, vocabulary): one stock forward pass over what the chat template makes of it all.

    Text stands at the position after the greatest one before it; a frame stands as many positions after the first of
    its run as its seconds make.
    """
    tokenizer, config = processor.tokenizer, model.config
    family, steps = config.model_type, 0
    messages = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    waiting = []
    for event in events:
        if isinstance(event, Watched):
            waiting = [{"type": "image" if family == "gemma3" else "video"}]
            continue
        messages.append({"role": "user", "content": [*waiting, {"type": "text", "text": event.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": "<answer>"}]})
        waiting = []
    written = processor.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False) + "<answer>"
    placeholder = adapter_for(model).placeholder(processor)
    pieces = [piece.split(placeholder) for piece in written.split("<answer>")]
    asked = iter(event for event in events if isinstance(event, Asked))
    shown = iter(event for event in events if isinstance(event, Watched))
    ids, positions, starts, inputs, following = [], [], [], [], 0

    def say(tokens: Sequence[int]) -> None:
        nonlocal following
        ids.extend(tokens)
        positions.extend([(following + number,) * 3 for number in range(len(tokens))])
        following += len(tokens)

    qwen = family.startswith("qwen3")
    start, end = (processor.vision_start_token, processor.vision_end_token) if qwen else ("", "")
    for number, (before, *after) in enumerate(pieces[:-1]):
        say(tokenizer(before.removesuffix(start), add_special_tokens=number == 0)["input_ids"])
        for text in (text.removeprefix(end) for text in after):
            event = next(shown)
            inputs.append(_prepared(processor, family, event.frames))
            if family in LABELS:
                labels = spelled(family, event.times, steps)
                patches = _patches(config, inputs[-1], len(labels))
                for (opens, closes), count in zip(labels, patches, strict=True):
                    say(tokenizer(opens, add_special_tokens=False)["input_ids"])
                    say([_placeholder(config)] * count)
                    say(tokenizer(closes, add_special_tokens=False)["input_ids"])
                say(tokenizer(text, add_special_tokens=False)["input_ids"])
                steps += len(labels)
                continue
            placed = _placed(config, inputs[-1], event.times, following)
            if family == "llava_onevision":  # the newline that the model puts behind a video
                placed.append((placed[-1][0] + 1,) * 3)
            ids.extend([config.video_token_id] * len(placed))
            positions.extend(placed)
            following = max(map(max, placed)) + 1
            say(tokenizer(text, add_special_tokens=False)["input_ids"])
        reply = next(asked).reply
        starts.append((len(ids), len(reply)))
        say(reply if reply[-1] not in tokenizer.all_special_ids else reply[:-1])
    along = 1 if family == "smolvlm" else 0  # whose images of one prompt are one row
    given = {name: torch.cat([each[name] for each in inputs], along) for name in (inputs[0] if inputs else ())}
    axes = torch.tensor(positions).T[:, None]
    spatial = "qwen" in family
    if family not in LABELS:  # the stock model finds the positions of frames with labels by itself
        given["position_ids"] = axes if spatial else axes[0]
    if spatial and "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        given["mm_token_type_ids"] = 2 * (torch.tensor([ids]) == config.video_token_id).int()
    if family == "gemma3":
        given["token_type_ids"] = (torch.tensor([ids]) == config.image_token_id).int()
    logits = model(input_ids=torch.tensor([ids]), **given).logits[0]
    return [logits[start - 1 : start - 1 + length] for start, length in starts]


def _prepared(processor: Any, family: str, frames: Any) -> Any:
    """Output of the family's processor for frames."""
    if family == "gemma3":
        return processor.image_processor(list(frames), do_pan_and_scan=False, return_tensors="pt")
    inputs = processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    if family == "internvl":
        inputs["pixel_values"] = inputs.pop("pixel_values_videos")[0]
    return inputs


def _placeholder(config: Any) -> int:
    return getattr(config, "video_token_id", None) or config.image_token_id


def _patches(config: Any, inputs: Any, steps: int) -> list[int]:
    """Visual tokens of each temporal step."""
    if (shown := inputs.get("video_compression_mask")) is not None:
        return shown.unflatten(0, (steps, -1)).sum(1).tolist()
    if "video_grid_thw" in inputs:
        _, rows, columns = inputs["video_grid_thw"][0].tolist()
        return [rows * columns // 4] * steps
    return [zoo.TABLE[config.model_type].grids["video"][0] ** 2] * steps


def _placed(config: Any, inputs: Any, times: Sequence[float], start: int) -> list[tuple[int, int, int]]:
    """Positions of a run's visual tokens."""
    if "video_grid_thw" not in inputs:
        count = inputs["pixel_values_videos"].shape[1] * 9
        return [(start + number,) * 3 for number in range(count)]
    steps, rows, columns = inputs["video_grid_thw"][0].tolist()
    rate = getattr(config.vision_config, "tokens_per_second", None)
    found = []
    for step in range(steps):
        offset = step if rate is None else math.floor((times[2 * step] - times[0]) * rate)
        cells = [(row, column) for row in range(rows // 2) for column in range(columns // 2)]
        found += [(start + offset, start + row, start + column) for row, column in cells]
    return found


def check(model: Any, processor: Any, events: Sequence[Watched | Asked], notes: Sequence[Notes], **how: Any) -> None:
    for found, wanted in zip(notes, stock_logits(model, processor, events, **how), strict=True):
        close = 4e-5 if adapter_for(model).recurrences else 1e-5  # states sum up every token in another order
        torch.testing.assert_close(torch.stack(found.logits), wanted, rtol=2e-6, atol=close)


@pytest.mark.parametrize(("family", "positions"), PLACED)
def test_with_everything_kept_answers_equal_the_stock_model(family: str, positions: Any) -> None:
    """Text first, two questions about one run, a new run, an odd number of frames."""
    session = tiny("full", None, family, positions=positions, chunk=16)
    runs = [Watched(frames_for(family, 12, seed=1), [0.5 * number for number in range(12)])]
    more = 12 if "llava" in family else 7  # videos of LLaVA are of one length in a stock batch
    runs += [Watched(frames_for(family, more, seed=2), [20 + 0.7 * number for number in range(more)])]
    events: list[Watched | Asked] = []
    notes = []
    for step in ["Hello", runs[0], "What?", "And then?", runs[1], "Now?", "Why?"]:
        if isinstance(step, Watched):
            session.push(step.frames, step.times)
            events.append(step)
        else:
            notes.append(ask(session, step))
            events.append(Asked(step, notes[-1].reply))
    check(model_of(family), TinyProcessor(family), events, notes)
    assert [turn.question for turn in session.turns] == [event.question for event in events if isinstance(event, Asked)]


def test_the_bundled_model_is_asked_as_its_chat_template_says(bundled: tuple[Any, Any]) -> None:
    """Some answers end by themselves, one is cut off, and a system message comes first."""
    model, processor = bundled
    session = kv.VideoSession(model, processor, "full", chunk=32)
    first, second = footage(8, 112, 112, seed=1), footage(6, 112, 112, seed=2)
    events: list[Watched | Asked] = []
    notes = []
    times = {0: [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5], 1: [9, 9.5, 10, 10.5, 30, 30.5]}
    for run, frames in enumerate((first, second)):
        session.push(frames, times[run])
        events.append(Watched(frames, times[run]))
        for question, most in (("What is there?", 16), ("How often did it blink?", 1), ("Which came first?", 16)):
            notes.append(ask(session, question, max_new_tokens=most))
            events.append(Asked(question, notes[-1].reply))
    assert any(event.reply[-1] == 997 for event in events if isinstance(event, Asked))
    check(model, processor, events, notes)


def test_a_system_message_comes_first() -> None:
    system = "Be brief."
    session = tiny("full", None, system=system)
    frames = footage(10)
    session.push(frames)
    notes = [ask(session, "What?"), ask(session, "Why?")]
    events = [Watched(frames, [0.5 * number for number in range(10)])]
    events += [Asked(question, each.reply) for question, each in zip(("What?", "Why?"), notes, strict=True)]
    check(model_of(QWEN), TinyProcessor(QWEN), events, notes, system=system)


class Forgetful(TinyProcessor):
    """Its chat template leaves out what was said before the last question."""

    def apply_chat_template(self, messages: list[dict], add_generation_prompt: bool, tokenize: bool) -> str:
        return super().apply_chat_template(messages[-1:], add_generation_prompt, tokenize)


def test_a_chat_template_that_leaves_things_out_is_refused() -> None:
    with pytest.raises(kv.UnsupportedModelError, match="chat template does not write 'first-answer'"):
        kv.VideoSession(model_of(QWEN), Forgetful(QWEN), "random", 30)


@pytest.mark.parametrize("method", METHODS)
def test_a_session_compresses_as_a_chunked_prefill_does(method: str) -> None:
    """One run and one question: the same chunks in one prompt, at the same positions."""
    model, processor = model_of(QWEN), TinyProcessor(QWEN)
    frames = footage(40)
    options = SETTINGS.get(method, {})
    session = tiny(method, 18, positions="keep", chunk=12, **options)
    session.push(frames)
    assert session.stats.waiting == 4
    found = ask(session, "What now?", max_new_tokens=1).logits[0]
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What now?"}]}]
    before, after = processor.apply_chat_template(messages, True, False).split(processor.video_token)
    video = processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
    first, rest = processor.tokenizer(before)["input_ids"], processor.tokenizer(after, False)["input_ids"]
    ids = torch.tensor([[*first, *[zoo.VIDEO] * 80, *rest]])
    placed = _placed(model.config, video, [0.5 * number for number in range(40)], len(first))
    end = max(map(max, placed)) + 1
    text = [(number,) * 3 for number in range(len(first))], [(end + number,) * 3 for number in range(len(rest))]
    positions = torch.tensor([*text[0], *placed, *text[1]]).T[:, None]
    if "mm_token_type_ids" in model.forward.__code__.co_varnames:
        video["mm_token_type_ids"] = 2 * (ids == zoo.VIDEO).int()
    with kv.compress(model, method, 18, chunk=12, **options) as run, torch.no_grad():
        wanted = model(input_ids=ids, position_ids=positions, **video).logits[0, -1]
    assert session.stats.entries == run.report.entries
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "times",
    [
        [0, 0.1, 0.2, 3, 3.1, 7, 7.9, 8, 8.2, 8.3],
        [100.25, 100.3, 100.9, 101, 104, 104.1, 104.2, 105, 500, 501],
        [0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2, 7 / 3, 8 / 3, 3],
        [-7, -6, -5, -4, -3, -2, -1, 0, 1, 2],
    ],
)
@pytest.mark.parametrize("family", STREAMED[:2])
def test_time_drives_temporal_positions(family: str, times: list[float]) -> None:
    session = tiny("full", None, family, chunk=8)
    frames = footage(10)
    session.push(frames[:3], times[:3])
    session.push(frames[3], times[3])
    session.push(frames[4:], iter(times[4:]))
    notes = ask(session, "When?")
    events = [Watched(frames, times), Asked("When?", notes.reply)]
    check(model_of(family), TinyProcessor(family), events, [notes])
    rate = getattr(model_of(family).config.vision_config, "tokens_per_second", None)
    offsets = range(5) if rate is None else [math.floor((time - times[0]) * rate) for time in times[::2]]
    layer = session.stream.layers[0]
    shown = layer.places[0, 0, layer.tags[0, 0, :, Tags.KIND] == Kind.VIDEO, 0]
    assert (shown - shown[0]).tolist() == [offset for offset in offsets for _ in range(4)]


# --- However frames come ----------------------------------------------------------------------------------------------


def _forms(frames: Any) -> dict[str, Callable[[kv.VideoSession], None]]:
    tensors = torch.from_numpy(frames).permute(0, 3, 1, 2)

    def each(convert: Callable[[Any], Any]) -> Callable[[kv.VideoSession], None]:
        return lambda session: [session.push(convert(frame)) for frame in frames]

    def groups(session: kv.VideoSession) -> None:
        start = 0
        for size in (3, 1, 10, 2, len(frames)):
            if len(frames[start : start + size]):
                session.push(list(frames[start : start + size]))
            start += size

    return {
        "one by one": each(lambda frame: frame),
        "in groups": groups,
        "as images": each(Image.fromarray),
        "as a list of images": lambda session: session.push([Image.fromarray(frame) for frame in frames]),
        "as tensors": each(lambda frame: torch.from_numpy(frame)),
        "colours first": lambda session: session.push(tensors),
        "fractions": lambda session: session.push(tensors.float() / 255),
        "wide numbers": lambda session: session.push(frames.astype(np.int64)),
        "backwards strides": lambda session: session.push(frames[::-1][::-1]),
    }


@pytest.mark.sampled
@pytest.mark.parametrize("form", _forms(footage(1)))
def test_the_form_and_grouping_of_frames_make_no_difference(form: str) -> None:
    frames = footage(30)
    whole, parts = tiny(), tiny()
    whole.push(frames)
    _forms(frames)[form](parts)
    assert (whole.stats.frames, whole.stats.waiting) == (parts.stats.frames, parts.stats.waiting)
    check_same(cache_of(parts), cache_of(whole))
    assert parts.ask("What?", max_new_tokens=5) == whole.ask("What?", max_new_tokens=5)


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16],
)
def test_frames_in_a_model_s_own_precision(dtype: torch.dtype) -> None:
    """As a decoder on the GPU hands them on."""
    frames = (torch.from_numpy(footage(20)).permute(0, 3, 1, 2) / 255).to(dtype)
    narrow, wide = tiny(), tiny()
    narrow.push(frames)
    wide.push(frames.double())
    check_same(cache_of(narrow), cache_of(wide))


@pytest.mark.parametrize("fps", [2, 3, 10, 24, 29.97])
def test_times_that_are_not_told_do_not_drift(fps: float) -> None:
    """A frame that comes alone stands where it would among others, also after many."""
    frames = footage(1)[0]
    whole, parts = tiny(fps=fps, chunk=64), tiny(fps=fps, chunk=64)
    count = 240
    whole.push(np.broadcast_to(frames, (count, *frames.shape)))
    for _ in range(count):
        parts.push(frames)
    assert parts.stats.seconds == pytest.approx((count - 1) / fps)
    check_same(cache_of(parts), cache_of(whole))


def test_a_video_file_is_as_good_as_its_frames(bundled: tuple[Any, Any], clips: list[Any]) -> None:
    model, processor = bundled
    files, frames = (kv.VideoSession(model, processor, "infinipot-v", 64, chunk=64) for _ in range(2))
    for clip in clips[:2]:
        files.push_video(clip.path, fps=2.0)
        video = kv.read_video(clip.path, fps=2.0)
        last = frames.stats.seconds
        frames.push(video.frames, video.times + (0 if last is None else last + 0.5 - video.times[0]))
    assert files.stats.frames == 2 * len(video)
    check_same(cache_of(files), cache_of(frames))
    question = clips[1].questions[0].text
    assert files.ask(question) == frames.ask(question)


def test_a_file_that_is_not_there(bundled: tuple[Any, Any], tmp_path: Path) -> None:
    session = kv.VideoSession(*bundled, "infinipot-v", 64)
    with pytest.raises(kv.VideoError, match="There is no video"):
        session.push_video(tmp_path / "missing.mp4")
    assert session.stats.frames == 0


# --- Questions leave vision alone, and no trace where none is wanted --------------------------------------------------


def test_questions_and_answers_are_text() -> None:
    """They stay, they take nothing from the video's budget, and the next frames do not evict them."""
    session = tiny(budget=40)
    session.push(footage(60))
    before = session.stats
    texts = [before.text_entries]
    for question in ("What?", "Why is that?"):
        notes = ask(session, question, max_new_tokens=6)
        stats = session.stats
        assert (stats.entries, stats.visual_tokens, stats.frames) == (before.entries, before.visual_tokens, 60)
        assert len(notes.reply) == 6
        texts.append(stats.text_entries)
    session.push(footage(60, seed=1))
    assert session.stats.entries == (40,) * 4
    assert session.stats.text_entries > texts[-1] > texts[-2] > texts[0]
    tags = session.stream.layers[0].tags[0, 0]
    said = tags[tags[:, 1] == 0, 0].tolist()
    assert said == sorted(set(said))
    assert len(said) == session.stats.text_entries


@pytest.mark.parametrize(("method", "budget", "options"), OPTIONS)
def test_a_question_that_is_not_kept_leaves_no_trace(method: str, budget: Any, options: dict[str, Any]) -> None:
    asked, silent = (tiny(method, budget, **options) for _ in range(2))
    for session in (asked, silent):
        session.push(footage(40))
        session.ask("First?", max_new_tokens=3)
        session.push(footage(21, seed=1))
        session.flush()
    before, turns, stats = cache_of(asked), list(asked.turns), asked.stats
    kept = ask(asked, "What?", keep=False, max_new_tokens=5)
    again = ask(asked, "What?", keep=False, max_new_tokens=5)
    assert all(map(torch.equal, kept.logits, again.logits))
    check_same(cache_of(asked), before)
    assert asked.turns == turns
    assert (asked.stats.position, asked.stats.text_entries) == (stats.position, stats.text_entries)
    check_same(usage_of(asked), usage_of(silent))


@pytest.mark.sampled
@pytest.mark.parametrize(("method", "budget", "options"), OPTIONS)
@pytest.mark.parametrize("waiting", [0, 3])
def test_a_fork_goes_its_own_way(method: str, budget: Any, options: dict[str, Any], waiting: int) -> None:
    session, alone = (tiny(method, budget, **options) for _ in range(2))
    for each in (session, alone):
        each.push(footage(20))
        each.ask("First?", max_new_tokens=3)
        each.push(footage(8 + waiting, seed=1))
    before, stats = cache_of(session), session.stats
    fork = session.fork()
    check_same(cache_of(fork), before)
    mine = {"waiting", "frames", "seconds", "entries", "text_entries", "position", "visual_tokens", "bytes"}
    assert {name: getattr(fork.stats, name) for name in mine} == {name: getattr(stats, name) for name in mine}
    assert fork.turns == session.turns
    assert fork.turns is not session.turns
    fork.push(footage(12, seed=7))
    fork.ask("Elsewhere?", max_new_tokens=12)
    check_same(cache_of(session), before)
    assert len(session.turns) == 1
    again = session.fork()
    wanted = usage_of(alone)
    check_same(usage_of(session), wanted)
    check_same(usage_of(again), wanted)


@pytest.mark.parametrize(("method", "budget", "options"), OPTIONS)
def test_a_snapshot_can_be_restored_many_times(method: str, budget: Any, options: dict[str, Any]) -> None:
    session = tiny(method, budget, **options)
    session.push(footage(40))
    session.ask("First?", max_new_tokens=25)
    snapshot = session.snapshot()
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    found = []
    for _ in range(2):
        restored = kv.VideoSession.restore(snapshot, session.model, session.processor)
        for seed in range(6):
            restored.push(footage(8, seed=seed))
            restored.flush()
        found.append(usage_of(restored))
    check_same(*found)
    check_same(list(snapshot.tensors.values()), list(before.values()))


def test_what_is_restored_from_a_snapshot_is_squeezed_apart_from_it() -> None:
    """The first thing that happens to the restored sessions moves every key that they hold."""
    session = tiny("full", None, chunk=8, position_limit=140)
    for seed in range(3):
        session.push(footage(40, seed=seed))
    assert session.stats.position > 100
    snapshot = session.snapshot()
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    restored = [kv.VideoSession.restore(snapshot, session.model, session.processor) for _ in range(2)]
    answers = [each.ask("What?", max_new_tokens=60) for each in restored]
    check_same(list(snapshot.tensors.values()), list(before.values()))
    assert answers[0] == answers[1]


def test_two_sessions_interleaved_equal_each_alone() -> None:
    """One model, and between them a stock prompt: nothing of a conversation is left on the model."""
    model = model_of(QWEN)
    prompt = zoo.inputs(model, zoo.default_prompts(QWEN)[:1])
    stock = model.generate(**prompt, max_new_tokens=4)

    def steps(session: kv.VideoSession, seed: int) -> Any:
        for number in range(4):
            session.push(footage(7, seed=seed + number))
            yield
            session.ask("What?" * (1 + seed), max_new_tokens=5)
            yield

    alone = []
    for seed, method in ((0, "infinipot-v"), (1, "snapkv")):
        session = tiny(method, 24)
        list(steps(session, seed))
        alone.append((cache_of(session), session.turns))
    together = [tiny("infinipot-v", 24), tiny("snapkv", 24)]
    for _ in zip(*(steps(session, seed) for seed, session in enumerate(together)), strict=True):
        assert torch.equal(model.generate(**prompt, max_new_tokens=4), stock)
    for session, (cache, turns) in zip(together, alone, strict=True):
        check_same(cache_of(session), cache)
        assert session.turns == turns


def test_eight_threads_on_four_sessions_equal_one_after_another() -> None:
    def fresh() -> list[kv.VideoSession]:
        return [tiny(method, 24 + 4 * number) for number, method in enumerate(("van", "random", "snapkv", "tar"))]

    def watch(session: kv.VideoSession, seed: int) -> None:
        for number in range(6):
            session.push(footage(5, seed=10 * seed + number))
            if number == 3:
                session.ask("What?", max_new_tokens=3)

    def question(session: kv.VideoSession, text: str) -> str:
        return session.ask(text, max_new_tokens=6, keep=False)

    threaded, sequential = fresh(), fresh()
    texts = ["Who is it?", "Where?"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(watch, threaded, range(4)))
        for session in threaded:
            session.flush()
        jobs = [(session, text) for text in texts for session in threaded] * 2
        answers = list(pool.map(lambda job: question(*job), jobs))
    for seed, session in enumerate(sequential):
        watch(session, seed)
        session.flush()
    assert answers == [question(session, text) for text in texts for session in sequential] * 2
    for one, other in zip(threaded, sequential, strict=True):
        check_same(cache_of(one), cache_of(other))
        assert one.turns == other.turns


def test_threads_on_one_session_take_turns() -> None:
    session = tiny()
    session.push(footage(20))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: session.ask(f"Question {number}?", max_new_tokens=3), range(8)))
    assert sorted(turn.question for turn in session.turns) == [f"Question {number}?" for number in range(8)]
    replay = tiny()
    replay.push(footage(20))
    for turn in session.turns:
        assert replay.ask(turn.question, max_new_tokens=3) == turn.answer


# --- Answers that come piece by piece ---------------------------------------------------------------------------------


def test_pieces_join_to_the_answer(bundled: tuple[Any, Any]) -> None:
    model, processor = bundled
    sessions = [kv.VideoSession(model, processor, "infinipot-v", 48) for _ in range(2)]
    for session in sessions:
        session.push(footage(12, 112, 112))
    for question in ("What is there?", "How many blinks were there?"):
        pieces = list(sessions[0].stream_answer(question, max_new_tokens=12, min_new_tokens=8))
        assert "".join(pieces).strip() == sessions[1].ask(question, max_new_tokens=12, min_new_tokens=8)
        assert len(pieces) > 1
    assert sessions[0].turns == sessions[1].turns
    check_same(cache_of(sessions[0]), cache_of(sessions[1]))


@pytest.mark.parametrize("patience", [0.0, 1.0])
def test_an_answer_that_is_closed_early_leaves_no_trace(patience: float) -> None:
    """Also where the model is ahead of the listener."""
    session, silent = tiny(), tiny()
    for each in (session, silent):
        each.push(footage(40))
        each.flush()
    before = cache_of(session)
    pieces = session.stream_answer("What is all this, then?", max_new_tokens=40)
    next(pieces)
    time.sleep(patience)
    pieces.close()
    assert not session.turns
    check_same(cache_of(session), before)
    check_same(usage_of(session), usage_of(silent))


def test_closing_an_answer_early_takes_no_other_turn_back() -> None:
    session = tiny()
    session.push(footage(40))
    pieces = session.stream_answer("What is all this, then?", max_new_tokens=8)
    next(pieces)
    session.ask("And that?", max_new_tokens=2)  # waits for the end of the other
    pieces.close()
    assert [turn.question for turn in session.turns] == ["What is all this, then?", "And that?"]


def test_an_answer_that_no_client_reads_is_not_generated() -> None:
    session = tiny()
    session.push(footage(10))
    session.stream_answer("What?")
    assert not session.turns
    assert session.stats.waiting == 2


def test_what_goes_wrong_in_an_answer_reaches_the_listener() -> None:
    session = tiny("random", "150000B", text_room=30)
    session.push(footage(40))
    with pytest.raises(kv.BudgetError, match="room for"):
        list(session.stream_answer("What?", max_new_tokens=100_000))
    assert "".join(session.stream_answer("What?", max_new_tokens=3, keep=False))
    assert not session.turns


def test_a_cache_goes_with_its_session() -> None:
    """At once: on a GPU nobody can wait for the garbage collector."""
    session = tiny()
    session.push(footage(40))
    session.ask("What?", max_new_tokens=3)
    held = [weakref.ref(layer) for layer in session.stream.layers]
    gc.collect()
    gc.disable()
    try:
        del session
        assert not [layer for layer in held if layer() is not None]
    finally:
        gc.enable()
