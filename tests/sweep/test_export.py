"""`kvpress-video results`: every format holds what the store holds."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sweep_rows import ODD, remeasured

from kvpress_video.cli import results
from kvpress_video.errors import SweepError, UnknownNameError
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.export import FORMATS, SUFFIXES, encode, write
from kvpress_video.sweep.results.records import COLUMNS, ROW_TYPES, Answered, Done, Failure, Row
from kvpress_video.sweep.results.store import FILE, Store

CELLS = [Cell(method, budget) for method in ("full", "tar:recent=2") for budget in ("100%", "10%")]
ANSWERS = (
    Answered("1", "order", "", "", "<|video|>\n'What, \"now\"'?\r\n", "red | blue\n", "red | blue", 1.0),
    Answered("0", "needle", "c", "u", "ü & \\| \\n", "", "12", None),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "sweep", {"cells": [asdict(cell) for cell in CELLS]}) as store:
        for cell in CELLS[:3]:
            for clip in ("a.mp4", "b.mp4"):
                measured = remeasured(ODD, cell, settings={} if cell.method == "full" else ODD.report.settings)
                store.add(Done(cell, clip, measured, ANSWERS))
        store.fail(Failure(CELLS[3], "a.mp4", "OutOfMemoryError: too much"))
    return tmp_path / "sweep"


def rows(folder: Path) -> list[Row]:
    with Store(folder) as store:
        return store.rows()


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    results.add(parser.add_subparsers())
    options = parser.parse_args(["results", *map(str, arguments)])
    return options.run(options)


def nested_as_json(record: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {**record, **{column: json.dumps(record[column], ensure_ascii=False) for column in columns}}


# --- What is written is what is read ----------------------------------------------------------------------------------


def test_csv_holds_every_row_with_exact_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    expected = [nested_as_json(row.as_dict(), "settings", "entries", "versions") for row in rows(folder)]
    assert len(found) == 12
    assert tuple(found[0]) == COLUMNS
    assert found == [{k: "" if v is None else str(v) for k, v in record.items()} for record in expected]
    assert [float(record["ratio"]) for record in found] == [1 / 3] * 12


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_text_that_a_spreadsheet_would_run_is_text_in_csv(start: str) -> None:
    formula = f"{start}HYPERLINK(0)"
    content = encode([{"answer": formula, "nested": [formula], "score": 1}], "csv").decode()
    [record] = csv.DictReader(io.StringIO(content, newline=""))
    assert record == {"answer": f"'{formula}", "nested": json.dumps([formula]), "score": "1"}
    assert json.loads(encode([{"answer": formula}], "json")) == [{"answer": formula}]


@pytest.mark.parametrize("number", [-1, -0.5, -1e-300, float("-inf"), "-1", "+.5", "-2.", "-1e-3", "1-2", "", "a=b"])
def test_numbers_and_plain_text_are_exact_in_csv(number: Any) -> None:
    [record] = csv.DictReader(io.StringIO(encode([{"a": number, "b": ""}], "csv").decode(), newline=""))
    assert record["a"] == str(number)


def test_parquet_holds_every_row_with_proper_types(folder: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    run(folder, "--out", tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.to_pylist() == [nested_as_json(row.as_dict(), "settings", "versions") for row in rows(folder)]
    assert tuple(table.column_names) == COLUMNS
    types = dict(zip(table.column_names, table.schema.types, strict=True))
    assert types["entries"] == pa.list_(pa.int64())
    assert [types[name] for name in ("seed", "bytes")] == [pa.int64()] * 2
    assert [types[name] for name in ("score", "ratio", "fps")] == [pa.float64()] * 3
    assert [types[name] for name in ("revision", "clip", "settings")] == [pa.string()] * 3
    assert types["shared"] == pa.bool_()


@pytest.mark.parametrize("count", [0, 1])
def test_parquet_types_do_not_hang_on_what_is_there(count: int) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import BufferReader, parquet

    records = [Row(CELLS[0], "a", ODD, ANSWERS[1]).as_dict()] * count
    schema = parquet.read_schema(BufferReader(encode(records, "parquet", ROW_TYPES)))
    assert str(schema.field("score").type) == "double"
    assert str(schema.field("revision").type) == "string"
    assert str(schema.field("entries").type).startswith("list<")


def test_pandas_reads_parquet(folder: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    run(folder, "--out", tmp_path / "rows.parquet")
    frame = pandas.read_parquet(tmp_path / "rows.parquet")
    assert frame.groupby("method").score.mean().to_dict() == {"full": 1.0, "tar:recent=2": 1.0}


def test_json_is_a_list_of_records(folder: Path, tmp_path: Path) -> None:
    run(folder, "--out", tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == [row.as_dict() for row in rows(folder)]
    assert json.loads(encode([], "json", ROW_TYPES)) == []


def test_json_lines_are_one_record_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "--format", "jsonl")
    lines = capsys.readouterr().out.split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [row.as_dict() for row in rows(folder)]
    assert lines[-1] == ""


def test_markdown_is_a_table_whatever_the_texts_hold(folder: Path, tmp_path: Path) -> None:
    run(folder, "--out", tmp_path / "rows.md")
    lines = (tmp_path / "rows.md").read_text().splitlines()
    assert len(lines) == 2 + 12
    assert {line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines} == {len(COLUMNS) + 1}
    assert lines[0].split(" | ")[COLUMNS.index("clip")] == "clip"
    cells = lines[2].split(" | ")
    assert cells[COLUMNS.index("answer")] == r"red \| blue<br>"
    assert cells[COLUMNS.index("prompt")] == "&lt;\\|video\\|><br>'What, \"now\"'?<br>"
    assert cells[COLUMNS.index("ratio")] == "0.3333"
    assert lines[3].split(" | ")[COLUMNS.index("prompt")] == r"ü &amp; \\\| \\n"
    rules = lines[1].strip("| ").split(" | ")
    assert [rules[COLUMNS.index(name)] for name in ("answer", "ratio", "score")] == [":--", "--:", "--:"]


# --- What is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["--method", "full"], 8),
        (["--method", "full", "--method", "tar:recent=2"], 12),
        (["--budget", "10%"], 4),
        (["--task", "needle", "--method", "full"], 4),
        (["--method", "tar:recent=2", "--budget", "10%"], 0),
    ],
)
def test_filters_take_what_matches_all_of_them(
    folder: Path, capsys: pytest.CaptureFixture[str], asked: list[str], found: int
) -> None:
    run(folder, *asked)
    records = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert records[0] == list(COLUMNS)
    assert len(records) == 1 + found


def test_a_filter_that_nothing_can_match_suggests_one_that_does(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"method 'tar:recent=3'.*Did you mean 'tar:recent=2'"):
        run(folder, "--method", "tar:recent=3")
    with pytest.raises(UnknownNameError, match=r"task 'needles'.*Did you mean 'needle'"):
        run(folder, "--task", "needles")


def test_failures_are_told_beside_the_records(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder)
    assert "Failed on a clip: 1; the last: tar:recent=2 10%, a.mp4: OutOfMemoryError" in capsys.readouterr().err


def test_the_summary_has_a_record_per_cell_and_task(folder: Path, tmp_path: Path) -> None:
    for suffix in ("csv", "json", "md", "parquet"):
        assert run(folder, "--summary", "--out", tmp_path / f"summary.{suffix}") == 0
    found = json.loads((tmp_path / "summary.json").read_text())
    assert {(r["method"], r["budget"]) for r in found} == {(cell.method, cell.budget) for cell in CELLS}
    assert [r["accuracy"] for r in found if (r["method"], r["budget"], r["task"]) == ("full", "10%", "order")] == [1.0]
    table = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text())))
    assert [record["method"] for record in table] == [record["method"] for record in found]


def test_a_filtered_summary_still_compares_with_the_full_cache(folder: Path, tmp_path: Path) -> None:
    run(folder, "--summary", "--method", "tar:recent=2", "--task", "overall", "--out", tmp_path / "summary.json")
    found = json.loads((tmp_path / "summary.json").read_text())
    assert {record["method"] for record in found} == {"tar:recent=2"}
    assert [r["retention"] for r in found if r["budget"] == "100%"] == [1.0]


# --- Files and formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_suffix_tells_the_format(folder: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / "new" / f"rows{suffix.upper()}"
    run(folder, "--out", out)
    assert out.read_bytes() == encode([row.as_dict() for row in rows(folder)], SUFFIXES[suffix], ROW_TYPES)


def test_a_named_format_goes_before_the_suffix(folder: Path, tmp_path: Path) -> None:
    run(folder, "--format", "json", "--out", tmp_path / "rows.txt")
    assert len(json.loads((tmp_path / "rows.txt").read_text())) == 12


def test_unknown_formats_and_suffixes_suggest_a_known_one_and_write_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"format 'markdwon'.*Did you mean 'markdown'"):
        run(folder, "--format", "markdwon")
    with pytest.raises(UnknownNameError, match=r"suffix '.parq'.*Did you mean '.parquet'"):
        run(folder, "--out", tmp_path / "rows.parq")
    with pytest.raises(UnknownNameError, match="Unknown format 'xlsx'"):
        encode([], "xlsx", ROW_TYPES)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


def test_parquet_is_not_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SweepError, match=r"--out FILE\.parquet"):
        run(folder, "--format", "parquet")
    assert capsys.readouterr().out == ""


def test_without_pyarrow_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SweepError, match=r"kvpress-video\[parquet\]"):
        run(folder, "--out", folder / "rows.parquet")
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.csv"
    out.write_text("old")

    def half(self: Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", half)
        with pytest.raises(SweepError, match=r"Cannot write .*rows\.csv: No space left"):
            write(out, b"new content")
    assert (out.read_text(), list(tmp_path.iterdir())) == ("old", [out])
    write(out, b"new content")
    assert (out.read_text(), list(tmp_path.iterdir())) == ("new content", [out])


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="Cannot write"):
        write(tmp_path, b"")


def test_a_folder_without_a_sweep_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="No sweep in"):
        run(tmp_path)


def test_help_names_every_format() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    results.add(commands)
    assert all(name in commands.choices["results"].format_help() for name in FORMATS)
