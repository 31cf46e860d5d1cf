"""Frames that come back from an archive for a question: in prompts against the stock model, and in sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import after_frames, answer, model_of, two_videos, video_prompt
from reference_masks import blinded_answer, evicted
from sessions import LABELS, QWEN, cache_of, check_failed_answer, check_same, frames_for, tiny

import kvpress_video as kv
from kvpress_video.compressor.entries import Context, Entries, Places, is_visual
from kvpress_video.compressor.registry import make_method
from kvpress_video.errors import BudgetError, CacheError, MissingInputError

QUESTION = "what?"
FAMILIES = [family for family in (QWEN, "llava_next_video", "qwen3_vl") if family in zoo.FAMILIES]


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_stock_model_with_all_other_frames_masked(family: str, positions: Any) -> None:
    model, prompt = model_of(family, "eager"), two_videos(family)
    inputs = zoo.inputs(model, [prompt])
    options = {"labels": "keep", "positions": positions}
    with kv.compress(model, "rekv:share=0.7,base=van", "67%", **options) as run:
        ours = answer(model, inputs)
    length = inputs["input_ids"].shape[1]
    layout = zoo.expected_layout(family, prompt)
    hidden = [evicted(kept[0], length) for kept in run.kept]
    whole = {(slot.segment, slot.frame): [] for slot in layout}
    for slot in layout:
        whole[slot.segment, slot.frame].append(slot.token)
    for layer in hidden:
        back = [place for place, tokens in whole.items() if not layer[:, tokens].any()]
        assert {segment for segment, _ in back} == {0, 1}  # of each video a frame is there, in all heads
    if positions == "keep":
        after = layout[-1].token + 1
        masked = blinded_answer(model, inputs, hidden, ours.tokens, after)
        torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-4)
    with kv.compress(model, "van", "67%", **options):
        assert (ours.logits - answer(model, inputs).logits).abs().max() > 1e-4


def test_the_first_layer_brings_back_the_frames_of_the_largest_dot_product() -> None:
    model = model_of(QWEN, "eager")
    inputs, prompt = zoo.inputs(model, [video_prompt(QWEN)]), video_prompt(QWEN)
    with kv.compress(model, "rekv", "34%") as run:
        answer(model, inputs)
    given: list[torch.Tensor] = []
    attention = next(iter(zoo.attentions(model).values()))
    hook = attention.register_forward_pre_hook(
        lambda _, __, kwargs: given.append(kwargs["hidden_states"]), with_kwargs=True
    )
    answer(model, inputs, new=1)
    hook.remove()
    layout = zoo.expected_layout(QWEN, prompt)
    question = after_frames(QWEN, prompt, inputs["input_ids"][0])
    states, heads = given[0][0], run.kept[0].shape[1]
    width = attention.k_proj.out_features // heads
    query = attention.q_proj(states[question:]).mean(dim=0).view(heads, -1, width).sum(dim=1)
    frames = sorted({slot.frame for slot in layout})
    tokens = [[slot.token for slot in layout if slot.frame == frame] for frame in frames]
    keys = torch.stack([attention.k_proj(states[mine]).mean(dim=0).view(heads, width) for mine in tokens])
    best = (keys * query).sum(dim=(1, 2)).argsort(descending=True)[:2].tolist()
    kept = set(run.kept[0][0, 0].tolist())
    assert [frame for frame in frames if kept >= set(tokens[frame])] == sorted(best)


def test_rows_of_a_batch() -> None:
    model = model_of(QWEN, "sdpa")
    prompts = [two_videos(QWEN), zoo.default_prompts(QWEN)[1]]
    with kv.compress(model, "rekv", "50%") as run:
        both = answer(model, zoo.inputs(model, prompts))
    for row, prompt in enumerate(prompts):
        with kv.compress(model, "rekv", "50%") as one:
            alone = answer(model, zoo.inputs(model, [prompt]))
        torch.testing.assert_close(both.logits[row], alone.logits[0], rtol=0, atol=1e-4)
        assert one.report.entries[0] <= run.report.entries[0]


def test_a_prompt_without_a_question() -> None:
    model = model_of(QWEN)
    with kv.compress(model, "rekv", "50%", prefill="whole"), pytest.raises(MissingInputError, match="put text after"):
        answer(model, zoo.inputs(model, [video_prompt(QWEN)]))


def watching(method: str = "rekv", family: str = QWEN, frames: int = 24, seed: int = 0, **options: Any) -> Any:
    session = tiny(method, options.pop("budget", 24), family, **options)
    session.push(frames_for(family, frames, seed))
    session.flush()
    return session


def visual(session: kv.VideoSession, layer: int = -1) -> Entries:
    entries = session.stream.layers[layer].entries(Context())
    order = is_visual(entries.kind).int().argsort(dim=-1, descending=True, stable=True)
    return entries.gather(order[..., : session.stats.entries[layer]])


@pytest.mark.parametrize("family", [QWEN, *LABELS[:1]])
@pytest.mark.parametrize("bank_on", ["device", "disk"])
def test_a_question_reads_frames_that_had_left(family: str, bank_on: str) -> None:
    session = watching(family=family, budget=40 if family in LABELS else 24, frames=40, bank_on=bank_on)
    before, held, stats = cache_of(session), set(visual(session).frame.unique().tolist()), session.stats
    with session.stream.answering(session._conversation.question(QUESTION).ids):
        found = visual(session)
        assert (found.index[..., 1:] > found.index[..., :-1]).all()
        assert (found.frame == found.frame[:, :1]).all()
        assert set(found.frame.unique().tolist()) - held
    check_same(cache_of(session), before)
    assert session.stats.recalled == 1
    session.ask(QUESTION, max_new_tokens=3)
    assert session.stats.entries == stats.entries


def test_the_archive_follows_positions() -> None:
    session = watching(budget=24, frames=48, position_limit=40)
    archive, held = session.stream.archive._frames, visual(session)
    numbers = sorted(set(held.frame.flatten().tolist()))
    back = archive.entries(len(session.stream.layers) - 1, numbers, held)
    places = back.places[0, 0][torch.isin(back.index[0, 0], held.index[0, 0])]
    assert torch.equal(places[:, Places.PRESENT], held.present[0, 0])
    keys = back.keys[:, :, torch.isin(back.index[0, 0], held.index[0, 0])]
    torch.testing.assert_close(keys, held.keys, rtol=0, atol=1e-4)
    assert float(held.present[..., 0].max()) < 40 < 48


def test_what_a_failed_answer_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    check_failed_answer(watching(), QUESTION, monkeypatch)


def test_answers_as_one_batch() -> None:
    sessions, others = ([watching(seed=seed) for seed in range(2)] for _ in range(2))
    alone = [session.ask(QUESTION, max_new_tokens=4) for session in others]
    assert kv.ask_all(sessions, QUESTION, max_new_tokens=4) == alone
    assert [session.stats.recalled for session in sessions] == [1, 1]


def test_bytes_on_the_device_stay_inside_the_budget() -> None:
    budget = 120_000
    session = watching(budget=f"{budget}B", frames=60, text_room=40, chunk=8)
    session.ask(QUESTION, max_new_tokens=4)
    stats = session.stats
    assert stats.recalled == 1
    assert stats.peak_bytes <= budget
    tokens, like = stats.visual_tokens, visual(session)
    states = 2 * like.keys[0, :, 0].nbytes * len(session.stream.layers)
    assert stats.archive_bytes > tokens * states


@pytest.mark.parametrize("stored", [None, 0.5])
def test_doubt_decides(stored: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if stored is not None:
        monkeypatch.setattr(model_of(QWEN).config, "kvpress_video", {"focus_margin": stored}, raising=False)
    settings = "base=van,share=0.7"
    answers = {}
    for margin in (-100.0, 100.0):
        session = watching(f"focus:margin={margin},{settings}")
        answers[margin] = session.ask(QUESTION, max_new_tokens=6, keep=False)
        assert session.stats.recalled == (margin > 0)
    found = session.stream.archive.margin
    assert answers[-100.0] == watching("van").ask(QUESTION, max_new_tokens=6)
    assert answers[100.0] == watching(f"rekv:{settings}").ask(QUESTION, max_new_tokens=6)
    calibrated = watching(f"focus:margin=None,{settings}")
    if stored is None:
        with pytest.raises(MissingInputError, match="kvpress-video probe margin"):
            calibrated.ask(QUESTION)
        return
    calibrated.ask(QUESTION, max_new_tokens=1)
    assert calibrated.stats.recalled == (found < stored)


def test_the_margin_is_that_of_the_first_token() -> None:
    session = watching("focus:margin=-100.0,base=van")
    logits: list[torch.Tensor] = []
    head = session.model.get_output_embeddings().register_forward_hook(lambda _, __, out: logits.append(out))
    session.ask(QUESTION, max_new_tokens=1)
    head.remove()
    first, second = logits[-1][0, -1].topk(2).values.tolist()
    assert session.stream.archive.margin == pytest.approx(first - second, abs=1e-4)


def test_a_prompt_in_doubt() -> None:
    model = model_of(QWEN)
    inputs, logits = zoo.inputs(model, [video_prompt(QWEN)]), {}
    for method in ("van", "focus:margin=-100.0,base=van", "focus:margin=100.0,base=van", "rekv:base=van,share=0.75"):
        with kv.compress(model, method, "50%"):
            logits[method] = answer(model, inputs).logits
    van, confident, doubting, always = logits.values()
    assert torch.equal(confident, van)
    assert torch.equal(doubting, always)
    assert not torch.equal(van, always)


def test_what_is_refused(tmp_path: Path) -> None:
    session = watching()
    for use in (session.fork, session.snapshot, lambda: session.save(tmp_path / "one.kvv")):
        with pytest.raises(CacheError, match="an archive of its frames"):
            use()
    with pytest.raises(BudgetError, match="SnapKV needs queries"):
        make_method("rekv", base="snapkv")


def test_wrappers_pass_on_what_their_base_brings_back() -> None:
    wrapped = make_method("chunk", base=make_method("focus", base="van", share=0.6, margin=2.5))
    assert (wrapped.recall_share, wrapped.recall_margin({})) == (0.6, 2.5)
    queries, keys = torch.randn(4, 8), torch.randn(5, 2, 8)
    assert torch.equal(wrapped.frame_scores(queries, keys), make_method("rekv").frame_scores(queries, keys))
    assert make_method("pyramid", base=make_method("fresh", n=3)).fresh == 3


@pytest.mark.parametrize("base", ["fresh", "rekv"])
@pytest.mark.parametrize("wrapper", ["ada", "mod"])
def test_heads_and_layers_that_differ_are_refused(wrapper: str, base: str) -> None:
    method = make_method(wrapper, base=make_method(base, base="van"))
    with pytest.raises(BudgetError, match="so its base cannot"):
        kv.compress(model_of(QWEN), method, "50%")
