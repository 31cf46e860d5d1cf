"""Grids from YAML, Python and flags, their cells, and errors in them."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kvpress_video.budget import Budget
from kvpress_video.compressor.registry import make_method
from kvpress_video.errors import SweepError
from kvpress_video.sweep.cells import Cell, Setup
from kvpress_video.sweep.grid.flags import flag_parts, grid_of_flags
from kvpress_video.sweep.grid.spec import Grid, make_grid
from kvpress_video.sweep.grid.yaml_file import read_grid
from kvpress_video.utils.named_settings import parse

WHOLE = """\
models: [bundled, {Qwen/Qwen2.5-VL-7B-Instruct: {dtype: bfloat16, attention: flash_attention_2, device_map: auto}}]
benchmarks:
  - world: {count: 48, frames: 32, camera: both}
  - world
methods: [full, tar, {infinipot-v: {tar_ratio: .5}}, "snapkv:window=16"]
budgets: [50%, 25%, 0.1, 6144, 256MiB]
seeds: [0, 1]
stage: cache          # the fields of a setup
prefill: auto
positions: keep
batch: 4
max_new_tokens: 16
reuse: false
device: cuda:1
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "grid.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> str:
    """Return the error for a file, without its folder."""
    with pytest.raises(SweepError) as caught:
        read_grid(written(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


# --- From people to grids ---------------------------------------------------------------------------------------------


def test_a_file_says_all_that_a_grid_is(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, WHOLE))
    assert grid == Grid(
        methods=("full", "tar", "infinipot-v:tar_ratio=0.5", "snapkv:window=16"),
        budgets=("50%", "25%", "10%", "6144", "256MiB"),
        models=(
            "bundled",
            "Qwen/Qwen2.5-VL-7B-Instruct:dtype=bfloat16,attention=flash_attention_2,device_map=auto",
        ),
        benchmarks=("world:count=48,frames=32,camera=both", "world"),
        seeds=(0, 1),
        setup=Setup(batch=4, max_new_tokens=16, reuse=False, device="cuda:1"),
    )
    assert len(grid.cells()) == 2 * 2 * 2 * (1 + 3 * 5)


def test_a_file_and_python_make_the_same_grid(tmp_path: Path) -> None:
    made = make_grid(
        models=["bundled", {"Qwen/Qwen2.5-VL-7B-Instruct": {"device_map": "auto", "dtype": "bfloat16",
                                                             "attention": "flash_attention_2"}}],
        benchmarks=[{"world": {"camera": "both", "frames": 32, "count": 48}}, "world"],
        methods=["full", "tar", "infinipot-v:tar_ratio=.5", {"snapkv": {"window": 16}}],
        budgets=["50%", "25%", 0.1, 6144, "256MiB"],
        seeds=[0, 1],
        batch=4,
        max_new_tokens=16,
        reuse=False,
        device="cuda:1",
    )  # fmt: skip
    assert made == read_grid(written(tmp_path, WHOLE))


def test_a_list_may_be_one_value(tmp_path: Path) -> None:
    text = "models: bundled\nbenchmarks: world\nmethods: {random: {seed: 3}}\nbudgets: 25%\nseeds: 7\n"
    assert read_grid(written(tmp_path, text)).cells() == [Cell("random:seed=3", "25%", "bundled", "world", 7)]


def test_what_is_left_out_has_its_default() -> None:
    grid = make_grid(methods="tar", budgets="25%")
    assert grid == Grid(("tar",), ("25%",), ("bundled",), ("world",), (0,), Setup())


@pytest.mark.parametrize(
    ("yaml", "value", "text"),
    [
        ("50%", "50%", "50%"),
        ("0.1", 0.1, "10%"),
        (".5", 0.5, "50%"),
        ("6144", 6144, "6144"),
        ("1_000", 1000, "1000"),
        ("1.5GB", "1.5GB", "1.5GB"),
        ("1e-3", 0.001, "0.1%"),
        ("1.0e-05", 1e-05, "0.001%"),
        ("2048.0", 2048.0, "2048"),
        ("1.0", 1.0, "100%"),
        ("'6144 tokens'", "6144 tokens", "6144 tokens"),
    ],
)
def test_a_budget_means_the_same_in_a_grid_and_alone(tmp_path: Path, yaml: str, value: object, text: str) -> None:
    (budget,) = read_grid(written(tmp_path, f"methods: tar\nbudgets: {yaml}\n")).budgets
    assert budget == text
    assert Budget.parse(budget) == Budget.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "method",
    [
        "tar:recent_ratio=.5",
        {"per-layer": {"base": "snapkv", "shares": [1.5, 0.5]}},
        {"per-layer": {"base": "infinipot-v:tar_ratio=.25"}},
        {"infinipot-v": {"pooling": True, "tar_ratio": 0.75}},
        {"random": None},
    ],
)
def test_a_method_is_spelled_so_that_it_reads_the_same(method: object) -> None:
    (text,) = make_grid(methods=[method], budgets="25%").methods
    if isinstance(method, str):
        name, settings = parse(method)
    else:
        [(name, settings)] = method.items()  # type: ignore[attr-defined]
    assert make_method(text) == make_method(name, **(settings or {}))
    assert make_grid(methods=text, budgets="25%").methods == (text,)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    flags = flag_parts(
        methods="full,infinipot-v:tar_ratio=.25,pooling=True,van", budgets="0.25,64", seeds="3,4", batch=2, stage=None
    )
    grid = read_grid(written(tmp_path, WHOLE), **flags)
    assert grid.methods == ("full", "infinipot-v:tar_ratio=0.25,pooling=True", "van")
    assert (grid.budgets, grid.seeds) == (("25%", "64"), (3, 4))
    assert grid.setup == Setup(batch=2, max_new_tokens=16, reuse=False, device="cuda:1")
    assert grid.benchmarks == ("world:count=48,frames=32,camera=both", "world")


def test_flags_complete_a_file_and_cover_its_errors(tmp_path: Path) -> None:
    grid = read_grid(written(tmp_path, "budgets: lots\nmethods: [tarr]\n"), methods=["tar"], budgets=["10%"])
    assert [str(cell) for cell in grid.cells()] == ["tar 10%"]


def test_an_error_in_a_flag_names_the_flag(tmp_path: Path) -> None:
    flags = flag_parts(methods="tarr", max_new_tokens=0)
    with pytest.raises(SweepError) as caught:
        read_grid(written(tmp_path, WHOLE), **flags)
    assert "--methods: Unknown method 'tarr'. Did you mean 'tar'?" in str(caught.value)
    assert "--max-new-tokens: Expected a whole number of at least 1, got 0." in str(caught.value)


def test_without_a_file_errors_name_the_flags_too() -> None:
    parts = flag_parts(methods="tar:ratio=1", budgets="25%,200%", benchmarks="world:clips=3", max_new_tokens=0)
    with pytest.raises(SweepError) as caught:
        grid_of_flags(parts, budgets="BUDGET", benchmarks="--benchmark")
    heading, *lines = str(caught.value).splitlines()
    assert heading == "The grid has 4 errors:"
    assert sorted(line.strip().partition(". ")[0] for line in lines) == [
        "--benchmark: Unknown setting of world 'clips'",
        "--max-new-tokens: Expected a whole number of at least 1, got 0.",
        "--methods: Unknown setting of tar 'ratio'",
        "BUDGET: A ratio cannot exceed 100%, got 200%",
    ]


def test_a_grid_with_other_parts() -> None:
    grid = make_grid(methods=["tar", "van"], budgets=["25%"], batch=2, device="cpu")
    assert grid.replaced(seeds=[1, 2]) == make_grid(
        methods=["tar", "van"], budgets=["25%"], seeds=[1, 2], batch=2, device="cpu"
    )
    with pytest.raises(SweepError, match="Did you mean 'van'"):
        grid.replaced(methods="vann")


# --- Cells ------------------------------------------------------------------------------------------------------------


def test_cells_come_in_order_and_once() -> None:
    models, benchmarks, seeds = ("bundled", "org/name"), ("world", "world:count=2"), (1, 0)
    grid = make_grid(
        models=models, benchmarks=benchmarks, seeds=seeds, methods=["tar", "full", "van"], budgets=["50%", 256]
    )
    points = [("tar", "50%"), ("tar", "256"), ("full", "100%"), ("van", "50%"), ("van", "256")]
    assert grid.cells() == [
        Cell(method, budget, model, benchmark, seed)
        for model, benchmark, seed, (method, budget) in product(models, benchmarks, seeds, points)
    ]


def test_what_means_the_same_is_one_cell() -> None:
    grid = make_grid(
        methods=["tar:recent_ratio=.25", {"tar": {"recent_ratio": 0.25}}, "tar:recent_ratio=0.250", "full", "full:"],
        budgets=["25%", 0.25, "0.25", 64, "64 tokens"],
        seeds=[0, 0],
    )
    assert [str(cell) for cell in grid.cells()] == [
        "tar:recent_ratio=0.25 25%",
        "tar:recent_ratio=0.25 64",
        "full 100%",
    ]


def test_a_preset_keeps_its_name_and_equals_its_settings() -> None:
    written = "infinipot-v:recent_ratio=0.25,tar_ratio=0.5,pooling=False,entries=official"
    grid = make_grid(methods=["infinipot-v:released", {"infinipot-v:released": None}, written], budgets="25%")
    assert grid.methods == ("infinipot-v:released",)


@pytest.mark.parametrize(
    "value", ["infinipot-v:released,recent_ratio=0.25,pooling=True", {"infinipot-v:released": {"pooling": True}}]
)
def test_settings_given_along_with_a_preset_follow_its_name(value: object) -> None:
    [method] = make_grid(methods=[value], budgets="25%").methods
    assert method == "infinipot-v:released,pooling=True"
    assert make_method(method) == make_method("infinipot-v", recent_ratio=0.25, pooling=True, entries="official")


def test_the_full_cache_alone_needs_no_budget() -> None:
    assert make_grid(methods="full").cells() == [Cell("full", "100%")]


# --- Errors -----------------------------------------------------------------------------------------------------------

GOOD = "methods: tar\nbudgets: 25%\n"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("methods: tar\nbudgets: 25%\nmetods: van\n", "3:1", "Unknown part of a grid 'metods'. Did you mean 'meth"),
        ("methods:\n  - van\n  - tarr\nbudgets: 25%\n", "3:5", "Unknown method 'tarr'. Did you mean 'tar'?"),
        (
            "budgets: 25%\nmethods:\n  - infinipot-v:\n      pooling: true\n      tar_ratoi: .5\n",
            "5:7",
            "methods[0].infinipot-v.tar_ratoi: Unknown setting of infinipot-v 'tar_ratoi'. Did you mean 'tar_ratio'?",
        ),
        (
            "budgets: 25%\nmethods:\n  - infinipot-v:\n      pooling: true\n      tar_ratio: high\n",
            "5:7",
            "methods[0].infinipot-v.tar_ratio: The setting 'tar_ratio' of infinipot-v takes float, got 'high'.",
        ),
        ("budgets: 25%\nmethods: ['tar:recent_ratio']\n", "2:11", "Cannot read the setting 'recent_ratio'"),
        (GOOD + "benchmarks: [world, wurld]\n", "3:21", "Unknown benchmark 'wurld'. Did you mean 'world'?"),
        (GOOD + "benchmarks:\n - world:\n    cuont: 3\n", "5:5", "Did you mean 'count'?"),
        ("methods: tar\nbudgets:\n- 25%\n- fifty\n", "4:3", "budgets[1]: Cannot read the budget 'fifty'"),
        ("methods: tar\nbudgets: [150%]\n", "2:11", "A ratio cannot exceed 100%, got 150%."),
        ("methods: tar\nbudgets: [0]\n", "2:11", "above zero, got 0 tokens"),
        ("methods: [tar, on]\nbudgets: 25%\n", "1:16", "got True. (YAML reads on as True; quote it to get a string.)"),
        ("methods: [{no: {a: 1}}]\nbudgets: 25%\n", "1:12", "Unknown method 'no'."),
        ("methods: [{tar: {}, van: {}}]\nbudgets: 25%\n", "1:11", "got {'tar': {}, 'van': {}}"),
        ("methods: [{tar: [1]}]\nbudgets: 25%\n", "1:11", "got {'tar': [1]}"),
        ("methods: [[tar]]\nbudgets: 25%\n", "1:11", "got ['tar']"),
        ("methods: []\nbudgets: 25%\n", "1:1", "methods: The list is empty: name at least one"),
        ("methods: tar\nbudgets:\n", "2:1", "budgets: The list is empty"),
        (GOOD + "seeds: [0, -1]\n", "3:12", "seeds[1]: A seed is a whole number of at least 0, got -1."),
        (GOOD + "seeds: [1.5]\n", "3:9", "got 1.5"),
        (GOOD + "seeds: '2'\n", "3:1", "got '2'"),
        (GOOD + "seeds: yes\n", "3:1", "got True. (YAML reads yes as True"),
        (GOOD + "stage: inptu\n", "3:1", "Unknown stage 'inptu'. Did you mean 'input'?"),
        (GOOD + "prefill: hole\n", "3:1", "Unknown prefill 'hole'. Did you mean 'whole'?"),
        (GOOD + "positions: compat\n", "3:1", "Unknown positions 'compat'. Did you mean 'compact'?"),
        (GOOD + "batch: 0\n", "3:1", "batch: Expected a whole number of at least 1, got 0."),
        (GOOD + "batch: true\n", "3:1", "got True."),
        (GOOD + "max_new_tokens: [4]\n", "3:1", "Expected a whole number of at least 1, got [4]."),
        (GOOD + "reuse: maybe\n", "3:1", "Expected true or false, got 'maybe'."),
        (GOOD + "device: gpu\n", "3:1", "There is no device 'gpu'"),
        (GOOD + "stage: input\n", "1:1", "'tar' cannot work at stage 'input', only at cache."),
        (GOOD + "prefill: chunked\n", "3:1", "A chunked prefill at 25% needs chunk=…"),
        ("methods: full\nprefill: chunked\n", "2:1", "A chunked prefill at 100% needs chunk=…"),
        ("methods: random\nbudgets: 64\nstage: input\nprefill: chunked\n", "4:1", "it has no chunked prefill"),
        (GOOD + "models: /nowhere/at/all\n", "3:1", "There is no model folder /nowhere/at/all"),
        (GOOD + "models: [{a/b: {dtpye: bfloat16}}]\n", "3:17", "setting of a model 'dtpye'. Did you mean 'dtype'?"),
        (GOOD + "models: [{a/b: {dtype: bfloat61}}]\n", "3:17", "Unknown dtype 'bfloat61'. Did you mean 'bfloat16'?"),
        (GOOD + "models: [{a/b: {attention: flex}}]\n", "3:17", "Attention implementation 'flex' is not supported"),
        (GOOD + "models: [{a/b: {dtype: 16}}]\n", "3:17", "takes a string, got 16"),
        (GOOD + "models: ['a/b:device=cpu,device_map=auto']\n", "3:10", "Give one of device, device_map to 'a/b'"),
        ("methods: tar\nbudgets: 25%\nbudgets: 50%\n", "3:1", "The key 'budgets' appears twice, first in line 2."),
        ("budgets: 25%\nmethods: [{tar: {recent_ratio: .1, recent_ratio: .2}}]\n", "2:36", "twice, first in line 2"),
        (GOOD + "? [a]\n: b\n", "3:3", "A key must be a name."),
        (GOOD + "batch: !!int many\n", "3:1", "Cannot read 'many'"),
        (GOOD + "device: !!python/name:os.system cpu\n", "3:1", "could not determine a constructor"),
        (GOOD + "seeds: &a [*a]\n", "3:8", "This refers to itself."),
        ("methods: tar\nbudgets: [25%\nseeds: 0\n", "3:", "this is not YAML: "),
        ("methods: tar\n\tbudgets: 25%\n", "2:1", "this is not YAML: found character '\\t' that cannot start"),
        (GOOD + "---\nmethods: tar\n", "3:1", "this is not YAML: but found another document."),
        ("- tar\n- van\n", "1:1", "a grid is a mapping, 'methods: [tar]', not a sequence."),
        ("tar\n", "1:1", "a grid is a mapping, 'methods: [tar]', not a scalar."),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what(tmp_path: Path, text: str, place: str, message: str) -> None:
    said = refusal(tmp_path, text)
    assert said.startswith(f"grid.yaml:{place}")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "grid.yaml is empty: write at least methods and budgets."),
        ("# nothing\n", "grid.yaml is empty"),
        ("budgets: 25%\n", "grid.yaml: There are no methods: name at least one, such as 'infinipot-v'."),
        ("methods: tar\n", "grid.yaml: There are no budgets: name at least one, such as '25%'."),
        ("methods: \x00\n", "grid.yaml: this is not YAML: "),
    ],
)
def test_an_error_of_the_whole_file_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"Cannot read the grid .*missing.yaml: No such file"):
        read_grid(tmp_path / "missing.yaml")
    with pytest.raises(SweepError, match=r"Cannot read the grid .*: Is a directory"):
        read_grid(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("methods: é".encode("latin-1"))
    with pytest.raises(SweepError, match="it is not UTF-8 text"):
        read_grid(tmp_path / "latin.yaml")


def test_all_errors_are_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "methods:\n  - tar\n  - vna\n  - nowelty\nbudgets: [25%, lots]\nbatch: 0\nbatch: 2\nseed: 1\n"
    head, *lines = refusal(tmp_path, text).splitlines()
    assert head == "grid.yaml has 5 errors:"
    assert [line.split(": ")[0].strip() for line in lines] == [
        f"grid.yaml:{place}" for place in ("3:5", "4:5", "5:16", "7:1", "8:1")
    ]


def test_errors_of_python_values_say_where() -> None:
    with pytest.raises(SweepError) as caught:
        make_grid(methods=["tar", {"snapkv": {"windw": 3}}], budgets=[0.5, True], sedes=1)
    said = str(caught.value)
    assert said.startswith("The grid has 3 errors:")
    assert "methods[1].snapkv.windw: Unknown setting of snapkv 'windw'. Did you mean 'window'?" in said
    assert "budgets[1]: Cannot read the budget True" in said
    assert "sedes: Unknown part of a grid 'sedes'. Did you mean 'seeds'?" in said


@pytest.mark.parametrize("camera", ["a,b", "still,count=3"])
def test_a_setting_that_no_text_can_hold_is_refused(camera: str) -> None:
    with pytest.raises(SweepError, match="does not read as world with"):
        make_grid(methods="tar", budgets="25%", benchmarks={"world": {"camera": camera}})


def test_a_model_folder_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"models\[0\]: .* holds no checkpoint"):
        make_grid(methods="tar", budgets="25%", models=tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert make_grid(methods="tar", budgets="25%", models=tmp_path).models == (str(tmp_path),)


def test_every_field_of_a_setup_can_be_set() -> None:
    other = {"stage": "input", "prefill": "split", "positions": "compact", "labels": "drop", "device": "cpu",
             "batch": 3, "max_new_tokens": 5, "reuse": False, "experts": 1}  # fmt: skip
    setup = make_grid(methods="random", budgets="25%", **other).setup
    assert asdict(setup) == other
    assert all(value != getattr(Setup(), name) for name, value in other.items())


def test_the_example_of_the_guide_is_a_grid(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    _, example, *_ = guide.split("```yaml\n")
    grid = read_grid(written(tmp_path, example.split("```")[0]))
    assert len(grid.cells()) == 2 * 1 * 2 * 2 * (1 + 4 * 5)


def bomb(key: str = "") -> str:
    lines = ['a: &a ["x","x","x","x","x","x","x","x","x"]']
    lines += [f"{name}: &{name} [{','.join(['*' + chr(ord(name) - 1)] * 9)}]" for name in "bcdefghi"]
    return "\n".join([*lines, key, "methods: [tar]", "budgets: [50%]"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "too large for a grid: with its aliases it has more than 10000 values"),
        (bomb("? *i\n: 1"), "too large for a grid"),
        ("methods: [" + "x," * 20_000 + "]", "too large for a grid"),
        ("methods: " + "[" * 20_000, "nested too deeply for a grid"),
        ("methods: [tar]\n#" + "x" * 2**17, "it has 131088 bytes, and a grid at most 131072"),
        (f"methods: [tar]\nseeds: {[*range(4000)]}\nbudgets: {[*range(2, 4000)]}", "up to 15,992,000 cells"),
    ],
)
def test_a_grid_without_measure_is_refused_with_little_memory(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    tracemalloc.start()
    try:
        with pytest.raises(SweepError, match=message):
            read_grid(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value", ["!!float ''", "!!int ''", "!!bool x", "!!timestamp x", "!!binary '*'", "!!python/name:os.system ''"]
)
def test_a_tag_that_does_not_fit_its_value_is_an_error_at_its_place(tmp_path: Path, value: str) -> None:
    with pytest.raises(SweepError, match=r"grid.yaml:2:11: budgets\[0\]"):
        read_grid(written(tmp_path, f"methods: [tar]\nbudgets: [{value}]\n"))


def test_a_key_that_is_a_list_is_an_error_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"grid.yaml:3:3: <sequence>: A key must be a name"):
        read_grid(written(tmp_path, "methods: [tar]\nbudgets: [50%]\n? [a]\n: 1\n"))


@pytest.mark.parametrize(("make", "said"), [(os.mkfifo, "it is a device or pipe"), (os.mkdir, "Is a directory")])
def test_a_grid_that_is_no_file_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "grid.yaml")
    with pytest.raises(SweepError, match=said):
        read_grid(tmp_path / "grid.yaml")


def test_bits_are_an_axis_which_names_its_cells() -> None:
    grid = make_grid(methods=["full", "tar"], budgets="25%", quantize=["none", 4, "4", "2:residual_length=0"])
    assert [str(cell) for cell in grid.cells()] == [
        "full 100%",
        "full quantize=4 100%",
        "full quantize=2:residual_length=0 100%",
        "tar 25%",
        "tar quantize=4 25%",
        "tar quantize=2:residual_length=0 25%",
    ]
    assert grid.most_cells == 6
    with pytest.raises(SweepError, match=r"quantize\[1\]: Keys and values can be quantised to 2, 4 or 8 bits, not 5"):
        make_grid(methods="tar", budgets="25%", quantize=[4, 5])
    with pytest.raises(SweepError, match=r"quantize\[0\]: 4 bits do not go with positions 'compact'"):
        make_grid(methods="tar", budgets="25%", quantize=4, positions="compact")
