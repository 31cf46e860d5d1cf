"""Public benchmarks: annotations that are not what they should be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.public.video_mme import VideoMME
from public_copies import (
    Copy,
    video_mme_rows,
    write_egoschema,
    write_json,
    write_longvideobench,
    write_lvbench,
    write_mlvu,
    write_video_mme,
    write_vnbench,
)
from public_streams import write_ovo_bench, write_rvs, write_streamingbench

from kvpress_video.errors import BenchmarkError
from kvpress_video.sweep.benchmark import Clip


def clips(copy: Copy, seed: int = 0, **options: Any) -> Sequence[Clip]:
    return copy.open(**options).clips(seed, copy.root)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="There is no folder"):
        VideoMME(path=str(tmp_path / "nowhere")).clips(0, tmp_path)
    with pytest.raises(BenchmarkError, match=r"No annotation in .*looked for videomme/\*\.parquet"):
        VideoMME(path=str(tmp_path)).clips(0, tmp_path)


def test_wrong_columns_are_listed(tmp_path: Path) -> None:
    rows = [{("id" if name == "videoID" else name): value for name, value in row.items()} for row in video_mme_rows()]
    write_json(tmp_path / "test.json", rows)
    with pytest.raises(BenchmarkError, match=r"test\.json, item 0: no 'videoID'\. Found the columns answer, .*id, opt"):
        VideoMME(path=str(tmp_path)).clips(0, tmp_path)


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    copy = write_egoschema(tmp_path)
    (tmp_path / "questions.json").write_text('[\n{"q_uid": "a"},\n{"q_uid" "b"}\n]')
    with pytest.raises(BenchmarkError, match=r"questions\.json is not JSON: line 3"):
        clips(copy)
    copy = write_lvbench(tmp_path / "lines")
    with (tmp_path / "lines/video_info.meta.jsonl").open("a") as file:
        file.write('\n{"key":')
    with pytest.raises(BenchmarkError, match=r"video_info\.meta\.jsonl is not JSON lines: line 4"):
        clips(copy)


def rewrite(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("write", "file", "change", "message"),
    [
        (write_mlvu, "json/4_count.json", lambda c: c[0].update(answer="a bee"), "item 0: the answer 'a bee' is none"),
        (write_mlvu, "json/4_count.json", lambda c: c[0].update(candidates=[]), "candidates should be a list, found"),
        (write_mlvu, "json/4_count.json", lambda c: c.clear(), "should hold a list of items, it holds an empty list"),
        (write_mlvu, "json/4_count.json", lambda c: c.append("x"), "item 1: expected the columns .*, found a str"),
        (write_longvideobench, "lvb_val.json", lambda c: c[1].update(correct_choice=5), "v1_0: the answer 5 is not"),
        (write_longvideobench, "lvb_val.json", lambda c: c[1].update(duration="1"), "duration should be a number"),
        (write_egoschema, "subset_answers.json", lambda c: c.update(u9=1), "no question 'u9', which has an answer"),
        (write_egoschema, "subset_answers.json", lambda c: c.update(u0=7), "answer to u0: the answer 7 is not the"),
        (write_vnbench, "VNBench-main-4try.json", lambda c: c.pop(), "is asked about 3 times, not 4"),
        (write_vnbench, "VNBench-main-4try.json", lambda c: c[0].update(type="x"), "the type 'x' is none of ret, ord"),
        (
            write_streamingbench,
            "questions_real.json",
            lambda c: c[0]["questions"][1].update(answer="F"),
            r"question 1: the answer 'F' is not one of the letters ABCD",
        ),
        (
            write_streamingbench,
            "questions_real.json",
            lambda c: c[0]["questions"][1].update(time_stamp="noon"),
            "'noon' is not a time",
        ),
        (write_ovo_bench, "ovo_bench_new.json", lambda c: c[0].update(task="XYZ"), "item 0: unknown task 'XYZ'"),
        (write_ovo_bench, "ovo_bench_new.json", lambda c: c[0].pop("gt"), "item 0: no 'gt'"),
        (write_ovo_bench, "ovo_bench_new.json", lambda c: c[7]["test_info"][1].pop("step"), "7, test 1: no 'step'"),
        (write_ovo_bench, "ovo_bench_new.json", lambda c: c[1].update(id=0, realtime=215, video="Ego4D/clips/0.mp4"),
         "two questions about Ego4D/clips/0.mp4 have the id '0'"),
        (write_rvs, "ego/ego4d_oe.json", lambda c: c[0]["conversations"][2].pop("end_time"), "2: no 'end_time'"),
    ],
)  # fmt: skip
def test_an_annotation_that_is_wrong_is_named_with_its_item(
    write: Callable[[Path], Copy], file: str, change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    copy = write(tmp_path)
    rewrite(tmp_path / file, change)
    with pytest.raises(BenchmarkError, match=message) as caught:
        clips(copy)
    if "answer to" not in message and "two questions" not in message:
        assert str(tmp_path) in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = write_video_mme(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BenchmarkError, match=r"pip install 'kvpress-video\[parquet\]'"):
        clips(copy)


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    copy = write_video_mme(tmp_path)
    (tmp_path / "videomme/test-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(BenchmarkError, match=r"test-00000-of-00001\.parquet cannot be read as Parquet"):
        clips(copy)
