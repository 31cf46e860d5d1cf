"""Methods that kvpress has too score as it does on the same tensors, and keep the same entries, ties aside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from kvpress_video import select
from kvpress_video.compressor import Context, Entries, Grid, make_method, segment_entries

FILES = sorted((Path(__file__).parent / "golden" / "kvpress").glob("*.safetensors"))
SETTINGS = {"n_sink": "sinks", "lag_size": "lag"}  # what kvpress calls them
COMPARABLE: dict[str, Callable[[Tensor], Tensor]] = {"lagkv": lambda scores: scores.clamp_max(1)}


def test_all_three_files_are_here() -> None:
    assert [file.stem for file in FILES] == ["key_norm", "keydiff", "lagkv"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kvpress_scores_and_keeps_the_same(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        tensors, header = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    name, keep, grid = header["method"], int(header["keep"]), Grid(*json.loads(header["grid"]))
    settings = {SETTINGS[key]: value for key, value in json.loads(header["settings"]).items()}
    entries: Entries = segment_entries(tensors["keys"][None], tensors["values"][None], grid, Context())
    scores = make_method(name, **settings).scores(entries)[0]
    expected = tensors["scores"]
    torch.testing.assert_close(COMPARABLE.get(name, lambda same: same)(scores), expected)
    ours = select(name, tensors["keys"], tensors["values"], grid=grid, keep=keep, **settings)
    kept = expected.gather(-1, tensors["kept"].long())
    for head, lowest in enumerate(kept.amin(dim=-1)):
        beyond = (expected[head] > lowest + 1e-6).nonzero().flatten().tolist()
        assert set(beyond) <= set(ours[head].tolist())
        assert (expected[head, ours[head]] >= lowest - 1e-6).all()
