"""What only Gemma 3 has: sliding layers beside those that are compressed, and images that are seen both ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
import zoo
from generation import SETTINGS, answer, compressed, forced, model_of, two_videos, video_prompt
from reference_masks import View, masked_answer, noted, view_of
from sessions import TinyProcessor, footage
from torch import Tensor
from zoo.gemma3 import MORE_NEWLINES, NEWLINES, WINDOW
from zoo.internvl import SIDE

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.cli import main
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Entries, Kind, Tags
from kvpress_video.compressor.registry import make_method
from kvpress_video.models import adapter_for
from kvpress_video.models.cache_argument import CACHE
from kvpress_video.prefill.chunking import cut
from kvpress_video.sweep.cells import Setup
from kvpress_video.sweep.dry_run.cost import PromptCost, PromptSize
from kvpress_video.sweep.dry_run.estimate import _Outline, _prompt_size
from kvpress_video.video.prompt import encode, prompt_text
from kvpress_video.video.resolution import frame_pixels

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

pytestmark = pytest.mark.skipif("gemma3" not in zoo.FAMILIES, reason="needs transformers 5")
FAMILY = "gemma3"
IMAGE = SIDE**2  # tokens


@contextmanager
def window_of(tokens: int) -> Iterator[None]:
    """The zoo's Gemma 3 with another window."""
    with pytest.MonkeyPatch.context() as patch:
        found = zoo.TABLE[FAMILY]
        patch.setitem(zoo.TABLE, FAMILY, replace(found, text=found.text | {"sliding_window": tokens}))
        yield


def sliding(cache: Any) -> list[Any]:
    return [layer for layer in cache.layers if not isinstance(layer, CompressedLayer) and layer.is_sliding]


def ragged(model: Any) -> dict[str, Tensor]:
    """Three rows of other lengths and layouts, so that padding comes in every part of a prompt that is cut."""
    return zoo.inputs(model, zoo.default_prompts(FAMILY))


# --- Sliding layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"prefill": "whole"}, {"prefill": "split"}, {"prefill": "chunked", "chunk": 20}])
@pytest.mark.parametrize("budget", ["100%", "40%"])
@pytest.mark.parametrize("window", [5, WINDOW, 1000])
def test_sliding_layers_hold_what_stock_holds(window: int, budget: str, options: Any) -> None:
    """Of every row the same tokens; where everything is kept in the other layers too, the same keys and values."""
    with window_of(window):
        model = zoo.build(FAMILY, "eager")
    inputs = ragged(model)
    stock = answer(model, inputs)
    force = [forced(stock.tokens, inputs["input_ids"].shape[1])]
    with kv.compress(model, "van", budget, **options):
        ours = answer(model, inputs, logits_processor=force)
    real = torch.nn.functional.pad(inputs["attention_mask"], (0, 4), value=1)
    theirs = [layer for layer in stock.output.past_key_values.layers if layer.is_sliding]
    for number, (mine, its) in enumerate(zip(sliding(ours.output.past_key_values), theirs, strict=True)):
        assert type(mine) is type(its)
        assert mine.get_seq_length() == its.get_seq_length()
        assert mine.get_mask_sizes(1) == its.get_mask_sizes(1)
        assert mine.keys.shape == its.keys.shape
        if budget == "100%" or number == 0:  # nothing was evicted before the first layer
            valid = real[:, -mine.keys.shape[2] :].bool()
            for name in ("keys", "values"):
                one, other = (getattr(layer, name).transpose(1, 2)[valid] for layer in (mine, its))
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [5, 12, 1000])
def test_windows_of_any_length_change_nothing_where_everything_is_kept(window: int, attention: str) -> None:
    with window_of(window):
        model = zoo.build(FAMILY, attention)
    inputs = ragged(model)
    stock = answer(model, inputs)
    for options in ({"prefill": "split"}, {"prefill": "chunked", "chunk": IMAGE}):
        with kv.compress(model, "van", "100%", **options):
            ours = answer(model, inputs)
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_positions_of_sliding_layers_stay(positions: Any) -> None:
    """The first layer is a sliding one and sees embeddings alone, so its keys are those of stock to the end."""
    model = model_of(FAMILY, "eager")
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    stock = answer(model, inputs)
    force = [forced(stock.tokens, inputs["input_ids"].shape[1])]
    with kv.compress(model, "van", "30%", positions=positions):
        ours = answer(model, inputs, logits_processor=force).output.past_key_values
    torch.testing.assert_close(ours.layers[0].keys, stock.output.past_key_values.layers[0].keys, rtol=0, atol=1e-6)
    if positions == "compact":
        last = compressed(ours)[0].places[0, 0, -1]
        assert last[4] < last[0] - 10


def test_compact_answers_equal_the_stock_model_with_full_layers_alone_at_squeezed_positions() -> None:
    model = model_of(FAMILY, "eager")
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    length = inputs["input_ids"].shape[1]
    with kv.compress(model, "random", "50%", positions="compact", prefill="whole"):
        ours = answer(model, inputs)
    cache = ours.output.past_key_values
    text = model.get_decoder()

    @contextmanager
    def moved() -> Iterator[None]:
        """New tokens see the prompt's kept keys alone, at their new places."""
        handles = []
        for number, attention in zoo.attentions(model).items():
            layer: Any = cache.layers[number]
            index, place = layer.tags[0, :, :-4, Tags.INDEX].long(), layer.places[0, :, :-4, 4]
            step = layer.places[0, 0, -4, 4] - length  # of the first new token

            def hook(module: Any, args: Any, kwargs: Any, index: Tensor = index, place: Tensor = place,
                     step: Tensor = step) -> tuple[Any, Any]:  # fmt: skip
                states = kwargs["hidden_states"]
                if states.shape[1] > 1:
                    return args, kwargs
                held = kwargs[CACHE].layers[module.layer_idx]
                now = held.get_seq_length()
                if now == length:
                    rows = []
                    for head in range(len(index)):
                        cos, sin = text.rotary_emb(states, (place[head] - index[head])[None], "full_attention")
                        keys = held.keys[:, head, index[head]]
                        first, second = keys.chunk(2, dim=-1)
                        rows.append((keys * cos + torch.cat([-second, first], dim=-1) * sin)[:, None])
                    held.keys = torch.cat(rows, dim=1)
                    chosen = index[None, :, :, None]
                    held.values = held.values.take_along_dim(chosen, dim=2)
                position = (now if now == length else length + held.keys.shape[2] - index.shape[1]) + step
                turned = text.rotary_emb(states, position.reshape(1, 1), "full_attention")
                return args, kwargs | {"attention_mask": None, "position_embeddings": turned}

            handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        yield
        for handle in handles:
            handle.remove()

    with moved():
        expected = answer(model, inputs, logits_processor=[forced(ours.tokens, length)])
    torch.testing.assert_close(ours.logits, expected.logits, rtol=0, atol=1e-5)
    assert (ours.logits - answer(model, inputs).logits).abs().max() > 1e-3


# --- Images -----------------------------------------------------------------------------------------------------------


def touching(model: Any) -> dict[str, Tensor]:
    """A prompt whose images have no token between them: to the model they are one block."""
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Text(5), zoo.Video(2, SIDE, SIDE, seed=3), zoo.Text(7, seed=4)])])
    row = inputs["input_ids"][0]
    between = row == MORE_NEWLINES
    inside = torch.cumsum(between, 0).bool() & (torch.flip(torch.cumsum(torch.flip(row == zoo.IMAGE, [0]), 0), [0]) > 0)
    kept = (row == zoo.IMAGE) | ~(inside | (torch.roll(between, -1)))
    return inputs | {name: inputs[name][:, kept] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.mark.parametrize("chunk", [1, IMAGE, IMAGE + 1, 2 * IMAGE])
def test_an_image_is_never_cut(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(FAMILY, "eager")
    for inputs in (zoo.inputs(model, [two_videos(FAMILY)]), touching(model)):
        row = inputs["input_ids"][0].tolist()
        runs, passes = [], []
        for place, token in enumerate(row):
            if token == zoo.IMAGE and row[place - 1] != zoo.IMAGE:
                runs.append([place, place])
            if token == zoo.IMAGE:
                runs[-1][1] = place
        with noted(monkeypatch) as log, kv.compress(model, "van", "100%", prefill="chunked", chunk=chunk):
            ours = answer(model, inputs)
        passes = [index[0].tolist() for _, _, index in log.came[0]]
        for first, last in runs:
            assert [first in part for part in passes] == [last in part for part in passes]
        torch.testing.assert_close(ours.logits, answer(model, inputs).logits, rtol=0, atol=1e-5)
    assert runs[0][1] - runs[0][0] + 1 == 2 * IMAGE


def test_frames_are_cut_apart_where_images_are_seen_one_way() -> None:
    model = model_of(FAMILY)
    inputs = touching(model)
    seen: list[Any] = []

    def note(chunk: Any, most: Any, blocks: bool) -> Any:
        seen.extend([cut(chunk, most, blocks), cut(chunk, most, False)])
        return seen[0]

    with pytest.MonkeyPatch.context() as patch, kv.compress(model, "van", "100%", prefill="chunked", chunk=1):
        patch.setattr("kvpress_video.prefill.prompt_prefill.cut", note)
        answer(model, inputs, new=1)
    whole, apart = seen
    assert [len(parts.visual) for parts in (whole, apart)] == [1, 2]


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("method", ["random", "infinipot-v", "snapkv", "streammem"])
@pytest.mark.parametrize("options", [{"prefill": "split"}, {"chunk": 20}])
def test_answers_equal_the_stock_model_with_queries_masked_to_the_entries_kept_by_then(
    method: str, two: bool, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the compressed layers a query sees what was kept before its part, its part up to itself, and its image."""
    model = model_of(FAMILY, "eager")
    inputs = zoo.inputs(model, [two_videos(FAMILY) if two else video_prompt(FAMILY)])
    length = inputs["input_ids"].shape[1]
    with noted(monkeypatch) as log, kv.compress(model, method, 20, **options, **SETTINGS.get(method, {})):
        ours = answer(model, inputs)
    columns = [_own(index[0].long(), length) for _, _, index in log.came[0]]
    columns = [part for part in columns if len(part)]
    assert torch.equal(torch.cat(columns), torch.arange(length))
    view = _with_images(view_of(log, length, columns), inputs["input_ids"][0])
    masked = masked_answer(model, inputs, ours.tokens, view)
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)
    assert (ours.logits[:, 1:] - answer(model, inputs).logits[:, 1:]).abs().max() > 1e-3


def _own(index: Tensor, length: int) -> Tensor:
    """The tokens of a pass, without those that only asked: these come again later."""
    jump = (index.diff() != 1).nonzero().flatten()
    index = index[: int(jump[0]) + 1] if len(jump) else index
    return index[index < length]


def _with_images(view: View, ids: Tensor) -> View:
    visual = ids == zoo.IMAGE
    block = torch.cumsum(visual & ~torch.roll(visual, 1), 0)
    together = (block[:, None] == block[None]) & visual[:, None] & visual[None]
    return View([layer | together for layer in view.layers])


@dataclass(frozen=True)
class Looking(Compressor):
    """Keeps the newest entries, and remembers what attention each drew."""

    window: int = 32
    drawn: list[tuple[Tensor, Tensor]] = field(default_factory=list, compare=False)

    needs: ClassVar[frozenset[str]] = frozenset({"queries"})

    def scores(self, entries: Entries) -> Tensor:
        drawn = make_method("snapkv", window=self.window, kernel=1).scores(entries)
        self.drawn.append((entries.index[0].long(), drawn[0]))
        return entries.index.float()


@pytest.mark.parametrize("prompt", ["one", "two", "touching"])
@pytest.mark.parametrize("window", [1, 13, 32, 1000])
@pytest.mark.parametrize(("prefill", "asking"), [("whole", "text"), ("split", "an image")])
def test_what_the_last_queries_look_at_is_what_stock_attention_says(
    prefill: Any, asking: str, window: int, prompt: str
) -> None:
    """Also inside an image, of which a query sees the rest. Nothing is evicted from a layer before its queries look."""
    model = model_of(FAMILY, "eager")
    found = {"one": video_prompt(FAMILY), "two": two_videos(FAMILY)}
    inputs = touching(model) if prompt == "touching" else zoo.inputs(model, [found[prompt]])
    method = Looking(window)
    with kv.compress(model, method, "50%", prefill=prefill), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    with torch.no_grad():
        stock = model(**inputs, output_attentions=True).attentions
    images = (inputs["input_ids"][0] == zoo.IMAGE).nonzero().flatten()
    framed = compressed(cache)[0].tags[0, 0][:, [Tags.INDEX, Tags.SEGMENT]]  # the newest label is never evicted
    last = max(int(images[-1]), int(framed[framed[:, 1] >= 0, 0].max()))
    end = last + 1 if asking == "an image" else inputs["input_ids"].shape[1]
    layers = list(zoo.attentions(model))
    wanted = [
        stock[number][0, :, max(0, end - window) : end].unflatten(0, (2, 2)).mean(dim=(1, 2)) for number in layers
    ]
    segments = len(method.drawn) // len(layers)
    assert sum(index.shape[1] for index, _ in method.drawn[:segments]) == len(images)
    for number, (index, drawn) in enumerate(method.drawn):
        expected = wanted[number // segments].gather(1, index)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_image_in_the_second_turn_is_seen_both_ways(attention: str) -> None:
    """By `forward()` and by `generate()`. The reference reads both turns at once, without a cache."""
    model = model_of(FAMILY, attention)
    parts: list[Any] = [zoo.Text(5), zoo.Image(SIDE, SIDE, seed=1), zoo.Text(20, seed=3), zoo.Image(SIDE, SIDE, seed=2)]
    both = zoo.inputs(model, [zoo.Prompt([*parts, zoo.Text(4, seed=5)])])
    place = len(zoo.inputs(model, [zoo.Prompt(parts[:3])])["input_ids"][0])
    with torch.no_grad():
        expected = model(**both, use_cache=False).logits[:, place:]
    first = {name: both[name][:, :place] for name in ("input_ids", "attention_mask", "token_type_ids")}
    first["pixel_values"], second = both["pixel_values"][:1], both | {"pixel_values": both["pixel_values"][1:]}
    new = second | {"input_ids": both["input_ids"][:, place:]}
    with kv.compress(model, "van", "100%") as run, torch.no_grad():
        ours = model(**new, past_key_values=model(**first, use_cache=True).past_key_values).logits
        reply = answer(model, second, new=1, past_key_values=model(**first, use_cache=True).past_key_values).logits
    assert len(run.reports) == 4
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(reply[:, 0], expected[:, -1], rtol=0, atol=1e-5)


def test_without_token_types_an_image_is_refused() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    inputs.pop("token_type_ids")
    with kv.compress(model, "van", "50%"), pytest.raises(kv.MissingInputError, match="token_type_ids"):
        answer(model, inputs)


LABEL = [100, 101]


@pytest.mark.parametrize(
    ("between", "segments"),
    [
        ([MORE_NEWLINES], [3]),  # images alone
        ([NEWLINES, NEWLINES], [3]),
        ([NEWLINES, *LABEL, NEWLINES], [3]),  # frames, each after the same label
        ([NEWLINES, *range(120, 150), NEWLINES], [1, 1, 1]),  # a paragraph
    ],
)
def test_images_that_follow_each_other_are_one_video(between: list[int], segments: list[int]) -> None:
    model = model_of(FAMILY)
    start, end = zoo.VISION_START, zoo.VISION_END
    row = [zoo.BOS, *(LABEL if LABEL[0] in between else [90, 91]), NEWLINES]
    for frame in range(3):
        row += [*(between if frame else []), start, *[zoo.IMAGE] * IMAGE, end]
    ids = torch.tensor([[*row, NEWLINES, 60, 61]])
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Video(3, SIDE, SIDE, seed=2)])]) | {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": (ids == zoo.IMAGE).int()
    }  # fmt: skip
    with kv.compress(model, "van", "100%"), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    layer = compressed(cache)[0]
    assert [grid.frames for grid in layer.rows[0].grids.values()] == segments
    kind = layer.tags[0, 0, ids[0] == zoo.IMAGE, Tags.KIND]
    assert set(kind.tolist()) == {Kind.VIDEO if segments == [3] else Kind.IMAGE}


# --- Videos, which its processor does not take ------------------------------------------------------------------------

TURN = "{% for part in messages[0].content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
VISION = {"image": zoo.IMAGE, "boi": zoo.VISION_START, "eoi": zoo.VISION_END}
QUESTION = "What is this?"


def processor(template: str = "{{ bos_token }}" + TURN + "{% endfor %}") -> Any:
    """Gemma 3's, for frames of the zoo; a letter is its code, and runs of newlines are tokens as in its vocabulary."""
    special = {f"{role}_token": f"<{role}>" for role in VISION}
    lines = {"\n": 10, "\n\n": NEWLINES, "\n\n\n\n": MORE_NEWLINES}
    known = {"<pad>": zoo.PAD, "<bos>": zoo.BOS, "<eos>": 2, "<unk>": 3, "<mask>": 4, "\u2581": 32}
    vocabulary = (
        known | lines | {chr(code): code for code in range(33, 248)} | {f"<{role}>": VISION[role] for role in VISION}
    )
    merges: Any = [("\n", "\n"), ("\n\n", "\n\n")]
    tokenizer = transformers.GemmaTokenizer(vocabulary, merges, add_bos_token=True, extra_special_tokens=special)
    pixels = transformers.Gemma3ImageProcessor(size={"height": 24, "width": 24})
    template = template.replace("<image>", "<boi>")
    return transformers.Gemma3Processor(pixels, tokenizer, chat_template=template, image_seq_length=IMAGE)


def spelled(frames: int, question: str) -> list[int]:
    row = [zoo.BOS, NEWLINES]
    for frame in range(frames):
        row += [*([MORE_NEWLINES] if frame else []), zoo.VISION_START, *[zoo.IMAGE] * IMAGE, zoo.VISION_END]
    return [*row, NEWLINES, *map(ord, question)]


def by_hand(video: kv.Video) -> dict[str, Tensor]:
    """Frames of 24 × 24 pixels and one question, without a processor."""
    ids = torch.tensor([spelled(len(video), QUESTION)])
    pixels = torch.from_numpy(video.frames).permute(0, 3, 1, 2) / 127.5 - 1
    types = {"token_type_ids": (ids == zoo.IMAGE).int()}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels} | types


@pytest.fixture
def video() -> kv.Video:
    return kv.Video.from_frames(footage(6, 24, 24), fps=2)


@pytest.mark.parametrize("template", ["{{ bos_token }}" + TURN + "{% endfor %}", TURN + "{% endfor %}"])
def test_frames_go_in_as_images_one_after_the_other(template: str, video: kv.Video) -> None:
    """And the text begins once, whoever writes the token that begins it."""
    made = processor(template)
    inputs = kv.prepare(made, video, QUESTION)
    expected = by_hand(video)
    assert set(inputs) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(inputs[name], tensor, rtol=0, atol=1e-6, check_dtype=False)
    asked = [QUESTION, "Who?"]
    several = kv.prepare(made, video, asked)
    for row, mask, question in zip(several["input_ids"], several["attention_mask"], asked, strict=True):
        assert row[mask.bool()].tolist() == spelled(6, question)
        assert mask[-1]
    assert torch.equal(several["pixel_values"], torch.cat([inputs["pixel_values"]] * 2))
    encoded = encode(made, video, [prompt_text(made, question) for question in asked])
    assert torch.equal(encoded["input_ids"], several["input_ids"])


def test_frames_become_one_video(video: kv.Video) -> None:
    model = model_of(FAMILY)
    with kv.compress(model, "van", "100%"), torch.no_grad():
        cache = model(**kv.prepare(processor(), video, [QUESTION, "Who?"]), use_cache=True).past_key_values
    layer = compressed(cache)[0]
    assert [[(grid.frames, grid.patches) for grid in row.grids.values()] for row in layer.rows] == [[(6, IMAGE)]] * 2
    for tags in layer.tags[:, 0]:
        frames = tags[tags[:, Tags.KIND] == Kind.VIDEO, Tags.FRAME]
        assert frames.tolist() == np.repeat(range(6), IMAGE).tolist()


@pytest.mark.parametrize("method", ["tar", "standby"])
def test_a_question_about_a_video(method: str, video: kv.Video) -> None:
    model, made = model_of(FAMILY), processor()
    given = kv.ask(model, made, video, QUESTION, method=method, budget="50%", max_new_tokens=6)
    with kv.compress(model, method, "50%") as run:
        tokens = answer(model, by_hand(video), 6).tokens[0]
    assert given.text == made.tokenizer.decode(tokens.tolist(), skip_special_tokens=True).strip()
    assert given.report.visual_tokens == 6 * IMAGE
    assert given.report.entries == run.report.entries
    assert given.report.label_entries == run.report.label_entries
    assert (given.report.bytes, given.report.ratio) == (run.report.bytes, run.report.ratio)
    assert run.report.ratio == pytest.approx(0.5, abs=0.01)


def test_the_command_line_asks_too(tmp_path: Path, clips: list[Clip], capsys: pytest.CaptureFixture[str]) -> None:
    model, made, folder = zoo.build(FAMILY), processor(), tmp_path / "gemma"
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    asked = ["--model", str(folder), "--device", "cpu", "--frames", "4", "--method", "tar", "--budget", "50%"]
    assert main(["ask", str(clips[0].path), QUESTION, *asked, "--max-new-tokens", "5"]) == 0
    said, report = capsys.readouterr().out.splitlines()[-2:]
    with kv.compress(model, "tar", "50%") as run:
        frames = kv.read_video(clips[0].path, frames=4, max_pixels=frame_pixels(made))
        inputs = {**by_hand(frames), "pixel_values": kv.prepare(made, frames, QUESTION)["pixel_values"]}
        tokens = answer(model, inputs).tokens[0].tolist()
    assert said == made.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert report.startswith("4 frames; ")
    assert f"{run.report.ratio:.1%}" in report


# --- Bytes ------------------------------------------------------------------------------------------------------------


def held(cache: Any) -> int:
    """Bytes of all that a cache holds, counted from outside."""
    parts = []
    for layer in cache.layers:
        parts += [layer.keys, layer.values]
        parts += [layer.tags, layer.places] if isinstance(layer, CompressedLayer) else []
    return sum(part.numel() * part.element_size() for part in parts)


ENTRY = 2 * 2 * (2 * 16 * 4 + 40)  # bytes in two layers of two heads: keys, values, metadata


@pytest.mark.parametrize(
    ("window", "budget"), [(WINDOW, "50%"), (1000, "50%"), (WINDOW, 20), (WINDOW, "45KiB"), (1000, "75KiB")]
)
def test_bytes_are_those_of_all_layers(window: int, budget: Any) -> None:
    """Windows included, which a budget of bytes pays for; and so an estimate says."""
    with window_of(window):
        model = zoo.build(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    length = inputs["input_ids"].shape[1]
    with kv.compress(model, "van", budget) as run, torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    with torch.no_grad():
        stock = model(**inputs, use_cache=True).past_key_values
    report = run.report
    assert report.bytes == held(cache)
    assert report.full_bytes == held(stock)
    if "KiB" in str(budget):
        assert 0 <= int(budget[:2]) * 1024 - report.bytes < ENTRY
        assert report.ratio < 1
    with kv.compress(model, "van", "100%"), torch.no_grad():
        [whole, *_] = compressed(model(**inputs, use_cache=True).past_key_values)
    framed = whole.tags[0, 0, :, Tags.SEGMENT] >= 0
    counts = {"visual": 6 * IMAGE, "labels": report.label_tokens, "following": length - 1 - int(framed.nonzero().max())}
    size = PromptSize(frames=6, tokens=length, common_suffix=0, **counts)
    cost = PromptCost(adapter_for(model), size, Setup())
    assert cost.cache_bytes(str(budget)) == report.bytes
    assert cost.stock_bytes == report.full_bytes


def test_an_estimate_counts_the_labels_of_a_prompt(video: kv.Video) -> None:
    model, made = model_of(FAMILY), processor()
    size = _prompt_size(_Outline(video, [QUESTION], {0: [1]}, 4), made, adapter_for(model))
    with kv.compress(model, "van", "50%") as run, torch.no_grad():
        model(**kv.prepare(made, video, QUESTION), use_cache=True)
    assert (size.visual, size.labels) == (run.report.visual_tokens, run.report.label_tokens)
    assert size.labels > 0
    assert size.text == run.report.text_entries


def test_a_batch_pays_for_every_window() -> None:
    model = model_of(FAMILY)
    inputs = ragged(model)
    with kv.compress(model, "van", "125KiB") as run, torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    assert run.report.bytes == held(cache)
    assert 0 <= 125 * 1024 - run.report.bytes < 3 * ENTRY
    windows = sum(2 * layer.keys.numel() * 4 for layer in sliding(cache))
    with (
        kv.compress(model, "van", f"{windows // 1024 + 1}KiB"),
        pytest.raises(kv.BudgetError, match="ask for at least"),
    ):
        answer(model, inputs)


# --- What is refused --------------------------------------------------------------------------------------------------


def test_dropping_before_prefill_is_refused() -> None:
    with pytest.raises(kv.UnsupportedModelError, match="stage='input' would leave gaps"):
        kv.compress(model_of(FAMILY), "random", "50%", stage="input")


def test_compact_positions_of_streams_are_refused() -> None:
    with pytest.raises(kv.UnsupportedModelError, match=r"sliding layers, .* use positions='keep'"):
        kv.VideoSession(model_of(FAMILY), TinyProcessor(FAMILY), "van", 100)
