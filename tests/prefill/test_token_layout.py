"""What is learned from the vision tower: which token is what, and how important standby queries find it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, video_prompt
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import kvpress_video as kv
from kvpress_video.compressor.entries import Grid, Kind, Tags, is_visual
from kvpress_video.models import adapter_for
from kvpress_video.models.items import MediaItem
from kvpress_video.models.standby_attention import cell_grid
from kvpress_video.prefill.token_layout import lay_out


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_visual_token_is_tagged_with_what_it_shows(family: str) -> None:
    model = model_of(family)
    prompts = zoo.default_prompts(family)
    inputs = zoo.inputs(model, prompts)
    with kv.compress(model, "random", "100%"):
        cache = model(**inputs, use_cache=True).past_key_values
    tags = compressed(cache)[0].tags[:, 0]
    for row, prompt in enumerate(prompts):
        padding = int((inputs["attention_mask"][row] == 0).sum())
        assert (tags[row, :padding] == -1).all()
        visual = tags[row][is_visual(tags[row, :, Tags.KIND])].tolist()
        expected = zoo.expected_layout(family, prompt)
        if "llava" in family:  # an any-resolution image is one row of tokens, newlines among them
            visual = [entry for entry in visual if entry[Tags.KIND] == Kind.VIDEO]
            expected = [slot for slot in expected if slot.kind == "video"]
        kinds = {"image": Kind.IMAGE, "video": Kind.VIDEO}
        assert visual == [
            [padding + slot.token, kinds[slot.kind], slot.segment, slot.frame, slot.row, slot.col] for slot in expected
        ]


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("method", ["standby", "standby-novelty"])
def test_patch_features_are_the_same_bits_with_and_without_standby(family: str, method: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])

    def features() -> list[Tensor]:
        seen: list[Tensor] = []

        def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            seen.append(kwargs["inputs_embeds"].clone())
            seen.extend(level.clone() for level in kwargs.get("deepstack_visual_embeds") or ())

        handle = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
        answer(model, inputs, new=1)
        handle.remove()
        return seen

    stock = features()
    with kv.compress(model, method, "30%", n=4):
        ours = features()
    assert len(stock) == len(ours)
    assert all(torch.equal(*both) for both in zip(stock, ours, strict=True))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_importance_is_the_attention_of_standby_queries(family: str, learned: bool) -> None:
    """The reference recomputes queries and keys of the last full-attention block from its weights, frame by frame."""
    model = zoo.build(family, "eager")
    frames, (rows, columns) = 3, zoo.grid(family)
    prompt = zoo.Prompt([zoo.Video(frames, rows, columns, seed=4), zoo.Text(3)])
    inputs = zoo.inputs(model, [prompt])
    width = 32  # of every tower
    tokens = torch.randn(3, width, generator=torch.Generator().manual_seed(1)) if learned else None
    with kv.compress(model, "standby", "100%", n=4, tokens=tokens):
        cache = model(**inputs, use_cache=True).past_key_values
    entries = compressed(cache)[0]
    found = entries.places[0, 0, :, 3][entries.tags[0, 0, :, Tags.KIND] == Kind.VIDEO]
    square = "llava" in family or zoo.TABLE[family].frames_are_images
    expected = _square_reference if square else _qwen_reference
    with torch.no_grad():
        wanted = expected(model, inputs, frames, rows, columns, tokens)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    if "llava" not in family:  # there patches pool into overlapping or uneven windows
        torch.testing.assert_close(found.reshape(frames, -1).sum(1), torch.ones(frames))


def _attention(queries: Tensor, keys: Tensor) -> Tensor:
    """(heads, n, d) and (heads, patches, d) -> (patches,)."""
    return (queries @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])).softmax(-1).mean(dim=(0, 1))


def _qwen_reference(model: Any, inputs: Any, frames: int, rows: int, columns: int, tokens: Tensor | None) -> Tensor:
    separate = hasattr(model.model, "vision_model")  # projections, and a merge size of each item
    visual = model.model.vision_model if separate else model.model.visual
    caught: dict[str, Any] = {}
    block: Any = visual.encoder.layers[-1] if separate else visual.blocks[-1]
    attention, norm = (block.self_attn, block.layer_norm1) if separate else (block.attn, block.norm1)

    def projected(hidden: Tensor) -> Tensor:
        if not separate:
            return attention.qkv(hidden).reshape(len(hidden), 3, attention.num_heads, -1)
        found = torch.stack([project(hidden) for project in (attention.q_proj, attention.k_proj)], dim=1)
        return found.reshape(len(hidden), 2, attention.num_heads, -1)

    handle = attention.register_forward_pre_hook(
        lambda m, args, kw: caught.update(kw, hidden=args[0]), with_kwargs=True
    )
    # one frame at a time: the last block's attention never crosses a frame
    patches, found = 4 * rows * columns, []
    for frame in range(frames):
        pixels = inputs["pixel_values_videos"][frame * patches : (frame + 1) * patches]
        merges = {"merge_sizes": torch.tensor([2])} if separate else {}
        visual(pixels, grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]]), **merges)
        states = projected(caught["hidden"])
        cos, sin = (part[:, None] for part in caught["position_embeddings"])

        def turn(x: Tensor, cos: Tensor = cos, sin: Tensor = sin) -> Tensor:
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat([-b, a], -1) * sin

        queries, keys = (turn(states[:, part]).transpose(0, 1) for part in (0, 1))
        where = _places(visual, rows, columns)
        if tokens is None:
            cells = cell_grid(4, 2 * rows, 2 * columns)
            height, width = 2 * rows // cells[0], 2 * columns // cells[1]
            cell_of = torch.tensor([r // height * cells[1] + c // width for r, c in where])
            standby = torch.stack([queries[:, cell_of == cell].mean(1) for cell in range(4)], dim=1)
        else:
            standby = projected(norm(tokens))[:, 0].transpose(0, 1)
        importance = _attention(standby, keys)
        merged = torch.zeros(rows, columns)
        for weight, (r, c) in zip(importance, where, strict=True):
            merged[r // 2, c // 2] += weight
        found.append(merged.flatten())
    handle.remove()
    return torch.cat(found)


def _places(visual: Any, rows: int, columns: int) -> list[tuple[int, int]]:
    """(row, column) of each patch in the order in which the tower's blocks see them: windows, merge blocks, patches."""
    merge = [(r, c) for r in range(rows) for c in range(columns)]
    if hasattr(visual, "window_size"):
        side = visual.window_size // visual.patch_size // 2
        merge.sort(key=lambda unit: (unit[0] // side, unit[1] // side, *unit))
    return [(2 * r + y, 2 * c + x) for r, c in merge for y in (0, 1) for x in (0, 1)]


def _square_reference(model: Any, inputs: Any, frames: int, rows: int, columns: int, tokens: Tensor | None) -> Tensor:
    """For towers that see each frame as a square of patches, with or without a class token before them."""
    pixels = inputs[zoo.video_input(model.config.model_type)].flatten(0, -4)
    side = pixels.shape[-1] // zoo.PATCH
    layer = getattr(model.config, "vision_feature_layer", -1)
    tower = getattr(model.model, "vision_tower", None) or model.model.vision_model
    lists = (module for module in tower.modules() if isinstance(module, torch.nn.ModuleList))
    block: Any = next(found for found in lists if hasattr(found[0], "mlp"))[layer if layer < 0 else layer - 1]
    attention = block.attention if hasattr(block, "attention") else block.self_attn
    norm = block.layernorm_before if hasattr(block, "layernorm_before") else block.layer_norm1
    caught: dict[str, Any] = {}

    def catch(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        caught["hidden"] = args[0] if args else kwargs["hidden_states"]

    def heads(states: Tensor, part: str) -> Tensor:
        states = getattr(attention, f"{part}_proj")(norm(states))
        states = getattr(attention, f"{part}_norm")(states) if hasattr(attention, f"{part}_norm") else states
        return states.reshape(len(states), attention.num_heads, -1).transpose(0, 1)

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    tower(pixels)
    handle.remove()
    found = []
    for frame in caught["hidden"][:, -side * side :]:
        q, k = (heads(frame, part) for part in "qk")
        if tokens is None:
            spatial = q.transpose(1, 2).reshape(q.shape[0], -1, side, side)
            standby = adaptive_avg_pool2d(spatial, cell_grid(4, side, side)).flatten(2).transpose(1, 2)
        else:
            standby = heads(tokens, "q")
        pooled = adaptive_avg_pool2d(_attention(standby, k).reshape(1, side, side), (rows, columns))
        found.append(pooled.flatten() * side**2 / (rows * columns))
    return torch.cat(found)


@pytest.mark.parametrize(
    ("n", "grid", "cells"), [(8, (8, 8), (2, 4)), (4, (6, 8), (2, 2)), (6, (4, 12), (1, 6)), (7, (8, 8), (1, 7))]
)
def test_cells_take_the_shape_of_the_frame(n: int, grid: tuple[int, int], cells: tuple[int, int]) -> None:
    assert cell_grid(n, *grid) in (cells, cells[::-1] if grid[0] == grid[1] else cells)


def test_more_standby_queries_than_patches_is_an_error() -> None:
    model = model_of(zoo.FAMILIES[0])
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Video(2, 1, 1, seed=4), zoo.Text(3)])])
    with kv.compress(model, "standby", "50%", n=64), pytest.raises(kv.BudgetError, match="64 standby queries"):
        answer(model, inputs)


@pytest.mark.skipif(len(zoo.FAMILIES) == 1, reason="transformers 4 runs Qwen2.5-VL only")
def test_standby_says_so_where_a_tower_gives_no_importance() -> None:
    model = model_of("llava_onevision")
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Image(5, 10), zoo.Text(3)])])
    with kv.compress(model, "standby", "50%"), pytest.raises(kv.MissingInputError):
        answer(model, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_encode_gives_what_enters_the_text_model(family: str, dtype: torch.dtype) -> None:
    model = zoo.build(family, "sdpa", dtype)
    prompt = video_prompt(family)
    inputs = zoo.inputs(model, [prompt])
    caught: dict[str, Any] = {}
    handle = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True
    )
    model(**inputs)
    handle.remove()
    where = [slot.token for slot in zoo.expected_layout(family, prompt)]
    embeddings, aligned = adapter_for(model).encode(inputs)
    assert torch.equal(embeddings, caught["inputs_embeds"][0, where])
    assert not embeddings.requires_grad
    if "qwen3_vl" in family:
        assert aligned is not None
        assert torch.equal(aligned, torch.cat(caught["deepstack_visual_embeds"], dim=-1))
    else:
        assert aligned is None


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_encode_says_which_input_is_missing(family: str) -> None:
    with pytest.raises(kv.MissingInputError, match=rf"{zoo.video_input(family)}.*input_ids"):
        adapter_for(model_of(family)).encode({"input_ids": torch.zeros(1, 2)})


@pytest.mark.parametrize("kind", [Kind.IMAGE, Kind.VIDEO])
def test_images_and_videos_may_share_a_placeholder(kind: Kind) -> None:
    """As in GLM-4V; a prompt with both at once cannot be told apart."""
    ids = torch.tensor([[5, 9, 9, 6, 9, 9, 5]])
    shared, item = {Kind.IMAGE: 9, Kind.VIDEO: 9}, MediaItem(Grid(2, 1, 2))
    found = lay_out(ids, ids > 0, shared, {kind: [item]}, 0, [0]).tags[0]
    assert found[:, Tags.KIND].tolist() == [0, kind, kind, 0, kind, kind, 0]
    assert found[[1, 2, 4, 5], Tags.FRAME].tolist() == [0, 0, 1, 1]
    half = MediaItem(Grid(1, 1, 2))
    with pytest.raises(kv.UnsupportedModelError, match="same placeholder tokens"):
        lay_out(ids, ids > 0, shared, {Kind.IMAGE: [half], Kind.VIDEO: [half, half]}, 0, [0])


def test_items_of_one_row_are_not_those_of_another() -> None:
    """One item stands for equal rows (beams), not for rows that happen to hold as many tokens."""
    item = {Kind.IMAGE: [MediaItem(Grid(1, 1, 2))]}
    equal, other = torch.tensor([[5, 9, 9, 6]] * 2), torch.tensor([[5, 9, 9, 6], [9, 9, 5, 6]])
    assert len(lay_out(equal, equal > 0, {Kind.IMAGE: 9}, item, 0, [0, 0]).rows) == 2
    with pytest.raises(kv.UnsupportedModelError, match="rows that differ"):
        lay_out(other, other > 0, {Kind.IMAGE: 9}, item, 0, [0, 0])


def test_an_item_of_a_kind_without_a_placeholder_is_refused() -> None:
    ids = torch.tensor([[5, 9, 9, 6]])
    with pytest.raises(kv.UnsupportedModelError, match="2 video tokens, but the prompt holds no placeholder"):
        lay_out(ids, ids > 0, {Kind.IMAGE: 9}, {Kind.VIDEO: [MediaItem(Grid(1, 1, 2))]}, 0, [0])
