"""The store of a sweep: round trips, concurrent and killed writers, damaged files."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sweep_rows import ODD, remeasured

from kvpress_video.errors import SweepError
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import COLUMNS, Answered, Done, Failure, Row
from kvpress_video.sweep.results.store import FILE, Store
from kvpress_video.sweep.results.stored_plan import unfinished

CELLS = [Cell(method, budget) for method in ("full", "tar:recent=2", "van") for budget in ("50%", "10%")]
CLIPS = ["b.mp4", "a.mp4", "ü 'c\".mp4"]
QUESTIONS = 3

forked = multiprocessing.get_context("fork")


def plan(cells: list[Cell] = CELLS, clips: list[str] = CLIPS, **facts: Any) -> dict[str, Any]:
    return {
        "setup": {"stage": "cache", "batch": 8, "device": None},
        "versions": {"python": "3.12"},
        "cells": [asdict(cell) for cell in cells],
        "clips": {"world seed 0": {clip: f"questions about {clip}" for clip in clips}},
        **facts,
    }


MEASURED = remeasured(
    ODD,
    settings={**ODD.report.settings, "inner": {"flag": True, "none": None}},
    compress_seconds=1.7976931348623157e308,
)


def done(cell: Cell, clip: str, word: str = "red", questions: int = QUESTIONS, **facts: Any) -> Done:
    """Number questions downwards, so that their order is not that of their names."""
    answers = tuple(
        Answered(str(questions - n), "needle", "", "", f"<video>\n'{n}' | ü\0\r\n", f"{word} {n}", "red", n / 7 or None)
        for n in range(questions)
    )
    return Done(cell, clip, remeasured(MEASURED, cell, **facts), answers)


def everything(cells: list[Cell] = CELLS, clips: list[str] = CLIPS) -> list[Done]:
    return [done(cell, clip) for cell in cells for clip in clips]


def raw(folder: Path, sql: str, *values: Any) -> list[tuple]:
    with closing(sqlite3.connect(folder / FILE)) as db, db:
        return db.execute(sql, values).fetchall()


# --- What goes in comes out -------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_went_in_whatever_the_order_of_writing(tmp_path: Path) -> None:
    written = everything()
    random.Random(0).shuffle(written)
    with Store(tmp_path, plan()) as store:
        for one in written:
            store.add(one)
        there = store.rows()
    expected = [row for cell in CELLS for clip in sorted(CLIPS) for row in done(cell, clip).rows]
    assert there == expected
    with Store(tmp_path) as store:
        assert store.rows() == expected
        assert [row.as_dict() for row in store.rows()] == [row.as_dict() for row in expected]
        assert store.finished() == {(cell, clip) for cell in CELLS for clip in CLIPS}
        assert store.plan == plan()
        assert store.failures() == []


def test_floats_and_flags_keep_their_values_and_types(tmp_path: Path) -> None:
    draw = random.Random(1)
    cells = [Cell("tar", str(n)) for n in range(1, 101)]
    seconds = {cell: draw.uniform(0, 1) * 10 ** draw.randint(-300, 300) for cell in cells}
    with Store(tmp_path, plan(cells)) as store:
        for cell, value in seconds.items():
            store.add(done(cell, "a.mp4", questions=1, prefill_seconds=value, shared=False))
        for row in store.rows():
            assert row.measured.report.prefill_seconds == seconds[row.cell]
            assert row.measured.report.shared is False
            assert row.answered.score is None
            assert type(row.measured.answer_seconds) is float


def test_the_view_has_the_columns_of_every_export_with_json_in_it(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as store:
        for one in everything():
            store.add(one)
        rows = store.rows()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        cursor = db.execute("SELECT * FROM rows")
        assert tuple(column[0] for column in cursor.description) == COLUMNS
        found = [dict(zip(COLUMNS, values, strict=True)) for values in cursor]
        (entries,) = db.execute("SELECT json_extract(entries, '$[1]') FROM rows LIMIT 1").fetchone()
    assert entries == 13
    for record in found:
        for column in ("settings", "entries", "label_entries", "versions"):
            record[column] = json.loads(record[column])
    assert found == [row.as_dict() for row in rows]


def test_the_columns_are_those_of_every_store_of_this_format(tmp_path: Path) -> None:
    """Changing them needs a new format, or earlier stores cannot be opened."""
    Store(tmp_path, plan()).close()
    found = {
        table: [
            f"{name} {kind}{' not null' * needed}"
            for _, name, kind, needed, *_ in raw(tmp_path, f"PRAGMA table_info({table})")
        ]
        for table in ("cells", "measurements", "answers", "failures")
    }
    assert found == {
        "cells": [
            "id INTEGER",
            *texts("method", "budget", "model", "benchmark"),
            "seed INTEGER not null",
            *texts("quantize"),
        ],
        "measurements": [
            *(
                "id INTEGER",
                "cell INTEGER not null",
                *texts("clip", "settings", "stage", "prefill", "positions", "labels", "entries"),
            ),
            *("ratio REAL not null", *integers("visual_tokens", "text_entries"), *texts("label_entries")),
            *integers("label_tokens", "bytes", "peak_bytes", "full_bytes"),
            *(*texts("video", "group"), "frames INTEGER not null", "fps REAL not null", *texts("pixels")),
            *(f"{name}_seconds REAL not null" for name in ("prefill", "compress", "answer")),
            *(*integers("shared"), *texts("dtype", "attention", "device", "versions"), "revision TEXT"),
        ],
        "answers": [
            *integers("measurement", "place"),
            *texts("question", "task", "category", "unit", "prompt", "answer", "expected"),
            "score REAL",
        ],
        "failures": [*integers("cell"), *texts("clip", "error")],
    }
    assert COLUMNS[5:8] == ("quantize", "clip", "question")


def texts(*names: str) -> list[str]:
    return [f"{name} TEXT not null" for name in names]


def integers(*names: str) -> list[str]:
    return [f"{name} INTEGER not null" for name in names]


def test_pandas_reads_the_view(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with Store(tmp_path, plan()) as store:
        store.add(done(CELLS[0], "a.mp4"))
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        frame = pandas.read_sql("SELECT method, score FROM rows", db)
    assert frame.score.dropna().tolist() == [1 / 7, 2 / 7]


def test_a_store_says_how_much_of_its_sweep_has_run(tmp_path: Path) -> None:
    """A failure counts: --resume would repeat it, but it is reported with its error."""
    first, *others = everything()
    with Store(tmp_path, plan()) as store:
        for each in others[1:]:
            store.add(each)
        store.fail(Failure(others[0].cell, others[0].clip, "BudgetError: too small"))
        ran: list[Row | Failure] = [*store.rows(), *store.failures()]
        assert unfinished(store.plan, ran).startswith("Incomplete: 17 of 18 cells × clips have run; ")
        assert unfinished({**store.plan, "tune": {}}, ran) == ""
        store.add(first)
        assert unfinished(store.plan, [*store.rows(), *store.failures()]) == ""


def test_a_second_answer_to_the_same_question_is_dropped(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as store:
        store.add(done(CELLS[0], "a.mp4", "first"))
        store.add(done(CELLS[0], "a.mp4", "second", fps=1.0))
        assert store.rows() == done(CELLS[0], "a.mp4", "first").rows


def test_a_cell_that_is_not_in_the_plan_is_an_error(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as store:
        with pytest.raises(SweepError, match=r"'van'.*'25%'.*not a cell of the sweep"):
            store.add(done(Cell("van", "25%"), "a.mp4"))
        with pytest.raises(SweepError, match="not a cell of the sweep"):
            store.fail(Failure(Cell("full", "50%", seed=1), "a.mp4", "no"))
        assert store.rows() == []


def test_an_answer_that_cannot_be_written_leaves_nothing_of_its_clip(tmp_path: Path) -> None:
    good = done(CELLS[0], "a.mp4")
    wrong = replace(good, answers=(*good.answers, replace(good.answers[0], question="9", task=None)))  # type: ignore[arg-type]
    with Store(tmp_path, plan()) as store:
        with pytest.raises(SweepError, match=r"NOT NULL.*task"):
            store.add(wrong)
        assert (store.rows(), store.finished()) == ([], set())
        store.add(good)
        assert store.rows() == good.rows


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_a_failure_gives_way_to_a_later_one_and_to_an_answer_and_never_replaces_one(tmp_path: Path) -> None:
    here, there = (CELLS[3], "b.mp4"), (CELLS[0], "a.mp4")
    with Store(tmp_path, plan()) as store:
        for error in ("out of memory", "lost"):
            store.fail(Failure(*here, error))
        store.fail(Failure(*there, "slow"))
        assert store.failures() == [Failure(*there, "slow"), Failure(*here, "lost")]
        assert store.finished() == set()
        store.add(done(*here))
        store.fail(Failure(*here, "too late"))
        assert store.failures() == [Failure(*there, "slow")]
        assert store.finished() == {here}


def test_taking_up_keeps_failures_until_they_are_answered(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as store:
        store.fail(Failure(CELLS[0], "a.mp4", "slow"))
        store.add(done(CELLS[1], "a.mp4"))
    with Store(tmp_path, plan(), resume=True) as store:
        assert [failure.error for failure in store.failures()] == ["slow"]
        store.add(done(CELLS[0], "a.mp4"))
        assert store.failures() == []


# --- Taking up --------------------------------------------------------------------------------------------------------


def test_a_store_with_answers_is_taken_up_only_when_asked_to(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as store:
        store.add(done(CELLS[0], "a.mp4"))
    with pytest.raises(SweepError, match=r"already holds 3 answers: pass --resume .* or choose another folder"):
        Store(tmp_path, plan())
    with Store(tmp_path, plan(), resume=True) as store:
        assert store.rows() == done(CELLS[0], "a.mp4").rows


def test_a_store_without_answers_is_simply_used(tmp_path: Path) -> None:
    Store(tmp_path, plan()).close()
    with Store(tmp_path, plan()) as store:
        store.add(done(CELLS[0], "a.mp4"))
    with pytest.raises(SweepError, match="another sweep"):
        Store(tmp_path, plan(more=1), resume=True)


def test_the_error_names_all_that_differs_with_both_values(tmp_path: Path) -> None:
    Store(tmp_path, plan(gone=True)).close()
    other = plan(new={"a": []}, setup={"stage": "input", "batch": 8, "device": None})
    with pytest.raises(SweepError) as caught:
        Store(tmp_path, other, resume=True)
    message = str(caught.value)
    assert "setup.stage is 'cache' there and 'input' here" in message
    assert "gone is True there and not set here" in message
    assert "new.a is not set there and [] here" in message
    assert not any(word in message for word in ("batch", "device", "versions", "cells", "clips"))
    with Store(tmp_path) as store:
        assert store.plan == plan(gone=True)


def test_the_error_shortens_revisions(tmp_path: Path) -> None:
    Store(tmp_path, plan(revision="0123456789abcdef" * 2 + "01234567")).close()
    with pytest.raises(SweepError, match="revision is '0123456789' there and 'ffffffffff-dirty' here"):
        Store(tmp_path, plan(revision="f" * 40 + "-dirty"), resume=True)


def test_cells_and_clips_may_be_added_and_keep_their_order(tmp_path: Path) -> None:
    first, more = CELLS[1:3], [CELLS[0], CELLS[2], CELLS[5]]
    with Store(tmp_path, plan(first, ["b.mp4"], budgets=[1, 1])) as store:
        store.add(done(CELLS[2], "b.mp4"))
    with Store(tmp_path, plan(more, ["a.mp4", "b.mp4"], budgets=[1, 1]), resume=True) as store:
        store.add(done(CELLS[0], "a.mp4"))
        store.add(done(CELLS[2], "a.mp4"))
        union = plan([CELLS[1], CELLS[2], CELLS[0], CELLS[5]], ["b.mp4", "a.mp4"], budgets=[1, 1])
        assert store.plan == union
        order = list(dict.fromkeys((row.cell, row.clip) for row in store.rows()))
        assert order == [(CELLS[2], "a.mp4"), (CELLS[2], "b.mp4"), (CELLS[0], "a.mp4")]
    with Store(tmp_path, plan(first, ["b.mp4"], budgets=[1, 1]), resume=True) as store:
        assert store.plan == union


# --- Files that are not a whole store ---------------------------------------------------------------------------------


def filled(folder: Path, cells: int = 40) -> Path:
    many = [Cell("tar", str(n)) for n in range(1, cells + 1)]
    with Store(folder, plan(many)) as store:
        for one in everything(many):
            store.add(one)
    return folder / FILE


def both_ways(folder: Path, match: str) -> None:
    """Readers and writers get the error, and the file stays as it is."""
    before = (folder / FILE).read_bytes()
    with pytest.raises(SweepError, match=match):
        Store(folder).rows()
    with pytest.raises(SweepError, match=match):
        Store(folder, plan(), resume=True)
    assert (folder / FILE).read_bytes() == before


def test_no_store_is_an_error_that_says_which_folder_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"No sweep in .*nowhere.*sweep\.sqlite"):
        Store(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match="Cannot make the folder"):
        Store(tmp_path / "file" / "sweep", plan())


def test_an_empty_file_is_an_error_to_read_and_a_new_store_to_write(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    with pytest.raises(SweepError, match="never started"):
        Store(tmp_path)
    with Store(tmp_path, plan()) as store:
        store.add(done(CELLS[0], "a.mp4"))
        assert len(store.rows()) == QUESTIONS


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("method,budget\n" * 100)
    both_ways(tmp_path, "not a database.*not written by a sweep")


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_another_programs_database_is_left_alone(tmp_path: Path, mode: str) -> None:
    raw(tmp_path, f"PRAGMA journal_mode = {mode}")
    raw(tmp_path, "CREATE TABLE rows (a)")
    both_ways(tmp_path, "was not written by a sweep")


def test_a_newer_format_is_an_error_that_says_upgrade(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    raw(tmp_path, "PRAGMA user_version = 99")
    both_ways(tmp_path, r"newer kvpress-video \(format 99.*upgrade")


def of_format_1(folder: Path) -> None:
    """Turn a store into one of format 1, which has no columns of labels."""
    of_earlier_format(folder, 1, ("labels", "label_entries", "label_tokens"))


def of_earlier_format(folder: Path, version: int, added: Sequence[str] = ()) -> None:
    """Turn a store into one that lacks columns of measurements, and the bits of a cell."""
    columns = ", ".join(f'"{column}"' for column in COLUMNS if column not in (*added, "quantize"))
    cell = "method TEXT NOT NULL, budget TEXT NOT NULL, model TEXT NOT NULL, benchmark TEXT NOT NULL, seed INT NOT NULL"
    names = "method, budget, model, benchmark, seed"
    raw(folder, "DROP VIEW rows")
    for column in added:
        raw(folder, f"ALTER TABLE measurements DROP COLUMN {column}")
    raw(folder, f"CREATE TABLE old (id INTEGER PRIMARY KEY, {cell}, UNIQUE ({names}))")
    raw(folder, f"INSERT INTO old SELECT id, {names} FROM cells")
    raw(folder, "DROP TABLE cells")
    raw(folder, "ALTER TABLE old RENAME TO cells")
    raw(
        folder,
        f"""CREATE VIEW rows ({columns}) AS SELECT c.method, c.budget, c.model, c.benchmark, c.seed, m.clip,
        {columns.partition('"clip", ')[2]}
        FROM cells c JOIN measurements m ON m.cell = c.id JOIN answers a ON a.measurement = m.id
        ORDER BY c.id, m.clip, a.place""",
    )
    raw(folder, f"PRAGMA user_version = {version}")


def without_labels(row: Row) -> Row:
    """Return a row as format 1 tells it: the text of frames is text like any other."""
    report = row.measured.report
    length = report.visual_tokens + report.text_entries
    report = replace(report, labels="keep", label_entries=(), label_tokens=0, logical_length=length)
    return replace(row, measured=replace(row.measured, report=report))


def test_a_store_of_format_1_is_read_and_left_unchanged(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    with Store(tmp_path) as store:
        rows = store.rows()
    of_format_1(tmp_path)
    for _ in range(2):
        with Store(tmp_path) as store:
            assert store.rows() == [without_labels(row) for row in rows]
    assert raw(tmp_path, "PRAGMA user_version") == [(1,)]


def test_a_sweep_that_resumes_a_store_of_format_1_upgrades_it(tmp_path: Path) -> None:
    setup = {"stage": "cache", "labels": "spread"}
    with Store(tmp_path, plan() | {"setup": {"stage": "cache"}}) as store:
        store.add(done(CELLS[0], "a.mp4"))
        rows = store.rows()
    of_format_1(tmp_path)
    with pytest.raises(SweepError, match=r"setup\.labels is 'keep' there and 'spread' here"):
        Store(tmp_path, plan() | {"setup": setup}, resume=True)
    with pytest.raises(SweepError, match=r"setup\.labels is 'keep' there and 'spread' here"):
        Store.check(tmp_path, plan() | {"setup": setup}, resume=True)
    with Store(tmp_path) as store:
        assert store.plan["setup"] == {"stage": "cache", "labels": "keep"}
    assert raw(tmp_path, "PRAGMA user_version") == [(1,)]
    Store.check(tmp_path, plan() | {"setup": setup | {"labels": "keep"}}, resume=True)
    with Store(tmp_path, plan() | {"setup": setup | {"labels": "keep"}}, resume=True) as store:
        store.add(done(CELLS[1], "a.mp4"))
        assert store.rows()[: len(rows)] == [without_labels(row) for row in rows]
        assert {row.measured.report.labels for row in store.rows()[len(rows) :]} == {"spread"}
    assert raw(tmp_path, "PRAGMA user_version") == [(3,)]


def test_a_store_of_format_2_holds_cells_that_were_not_quantised_and_takes_others(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as store:
        store.add(done(CELLS[0], "a.mp4"))
        rows = store.rows()
    of_earlier_format(tmp_path, 2)
    with Store(tmp_path) as store:
        assert (store.rows(), store.finished()) == (rows, {(CELLS[0], "a.mp4")})
    assert raw(tmp_path, "PRAGMA user_version") == [(2,)]
    packed = replace(CELLS[0], quantize="4")
    with Store(tmp_path, plan([*CELLS, packed]), resume=True) as store:
        store.add(done(packed, "a.mp4"))
        assert [row.cell.quantize for row in store.rows()] == ["none"] * len(rows) + ["4"] * len(rows)
        assert {row.measured.report.quantize for row in store.rows()} == {"none", "4"}
    assert raw(tmp_path, "PRAGMA user_version") == [(3,)]


def test_other_columns_are_an_error(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    raw(tmp_path, "ALTER TABLE answers RENAME COLUMN answer TO reply")
    raw(tmp_path, "DROP VIEW rows")
    raw(tmp_path, "CREATE VIEW rows AS SELECT * FROM answers")
    both_ways(tmp_path, "another version")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float) -> None:
    file = filled(tmp_path)
    os.truncate(file, int(file.stat().st_size * share))
    both_ways(tmp_path, "damaged|not a database")


def test_a_file_with_a_damaged_page_is_an_error(tmp_path: Path) -> None:
    file = filled(tmp_path)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = random.Random(0).randbytes(4096)
    file.write_bytes(content)
    both_ways(tmp_path, "malformed.*damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE measurements SET settings = '{'", "in the column 'settings' '{' is not JSON"),
        ("UPDATE measurements SET settings = '[]'", "'settings' .* is not dict"),
        ("UPDATE measurements SET entries = '[]'", "'entries' the list is empty"),
        ("UPDATE measurements SET entries = '[1, \"2\"]'", "'entries' '2' is not int"),
        ("UPDATE measurements SET versions = x'00'", "'versions' b'.x00' is not JSON"),
        ("UPDATE measurements SET bytes = -1", "'bytes' -1 is negative"),
        ("UPDATE measurements SET ratio = 'half'", "'ratio' 'half' is not int or float"),
        ("UPDATE measurements SET ratio = 0", "'ratio' 0.0 is not a ratio above 0"),
        ("UPDATE measurements SET ratio = 1.5", "'ratio' 1.5 is not a ratio above 0"),
        ("UPDATE measurements SET ratio = 9e999", "'ratio' inf is not finite"),
        ("UPDATE measurements SET frames = 'many'", "'frames' 'many' is not int"),
        ("UPDATE answers SET score = 7", "'score' 7.0 is not between 0 and 1"),
        ("UPDATE answers SET score = 'right'", "'score' 'right' is not"),
        ("UPDATE answers SET answer = x'FF'", "'answer' b'.xff' is not str"),
        ("UPDATE cells SET method = x'FF'", "'method' b'.xff' is not str"),
        ("UPDATE cells SET seed = 'one'", "'seed' 'one' is not int"),
        ("UPDATE plan SET value = 'x' WHERE key = 'setup'", "'x' is not JSON"),
        ("UPDATE plan SET value = '[1]' WHERE key = 'setup'", "the plan's setup are .1."),
        ("UPDATE plan SET value = '{\"a\": 1}' WHERE key = 'clips'", "the plan's clips are"),
        ("UPDATE plan SET value = replace(hex(zeroblob(9999)), '00', '[') WHERE key = 'clips'", "is not JSON"),
    ],
)
def test_a_damaged_value_in_a_sound_file_is_an_error_that_names_it(tmp_path: Path, change: str, message: str) -> None:
    file = filled(tmp_path)
    raw(tmp_path, change)

    def read() -> None:
        with Store(tmp_path) as store:
            store.rows()
            _ = store.plan

    with pytest.raises(SweepError, match=f"Cannot use {file}: .*{message}.*It is damaged"):
        read()


def test_damaged_failures_and_names_of_clips(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with Store(tmp_path, plan(), resume=True) as store:
        store.fail(Failure(CELLS[-1], "a.mp4", "There is no video caf\udce9.mp4."))
        assert [failure.error for failure in store.failures()] == ["There is no video caf\\udce9.mp4."]
    raw(tmp_path, "UPDATE failures SET error = x'FF'")
    raw(tmp_path, "UPDATE measurements SET clip = x'FF' WHERE id = 1")
    with Store(tmp_path) as store:
        for read in (store.failures, store.finished):
            with pytest.raises(SweepError, match="is neither the name of a clip nor an error"):
                read()


def test_a_cell_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"Cannot write '/models/caf.*udce9' to .*: it is not UTF-8. Rename it."):
        Store(tmp_path, plan([Cell("tar", "25%", "/models/caf\udce9")]))


def test_folders_of_any_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b", "50%", "what?mode=memory", "#1", "ü;'\"", "file:x"):
        with Store(name, plan()) as store:
            store.add(done(CELLS[0], "a.mp4"))
        assert (tmp_path / name / FILE).is_file()
        with Store(tmp_path / name) as store:
            assert len(store.rows()) == QUESTIONS


# --- Several at once, and kills ---------------------------------------------------------------------------------------


@contextmanager
def child(work: Callable[..., None], *values: Any) -> Iterator[multiprocessing.process.BaseProcess]:
    process = forked.Process(target=work, args=values)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def ended(*processes: multiprocessing.process.BaseProcess) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


MANY = [Cell("tar", str(n)) for n in range(1, 501)]


def whole(folder: Path) -> int:
    """Count the cells × clips of a store, and check that each has all its answers."""
    assert raw(folder, "PRAGMA integrity_check") == [("ok",)]
    assert raw(folder, "PRAGMA foreign_key_check") == []
    counts = Counter(raw(folder, "SELECT method, budget, clip FROM rows"))
    assert set(counts.values()) <= {QUESTIONS}
    assert len(counts) == raw(folder, "SELECT count(*) FROM measurements")[0][0]
    return len(counts)


def _write(folder: Path, todo: list[Done], word: str, gate: Any) -> None:
    gate.wait()
    with Store(folder, plan(MANY), resume=True) as store:
        for one in todo:
            if word == "fail":
                store.fail(Failure(one.cell, one.clip, "lost"))
            else:
                store.add(done(one.cell, one.clip, word))


def test_writers_that_create_the_store_at_once_and_overlap_lose_and_double_nothing(tmp_path: Path) -> None:
    jobs = everything(MANY[:60])
    gate = forked.Barrier(4)
    orders = {"one": jobs[:120], "two": jobs[60:][::-1], "fail": jobs}
    with (
        child(_write, tmp_path, orders["one"], "one", gate) as one,
        child(_write, tmp_path, orders["two"], "two", gate) as two,
        child(_write, tmp_path, orders["fail"], "fail", gate) as three,
    ):
        gate.wait()
        assert ended(one, two, three) == [0, 0, 0]
    assert whole(tmp_path) == len(jobs)
    with Store(tmp_path) as store:
        assert store.failures() == []
        rows = store.rows()
    assert {row.answered.answer.split()[0] for row in rows} == {"one", "two"}
    found = [(row.cell, row.clip, row.answered.question) for row in rows]
    assert found == [(c, k, q) for c in MANY[:60] for k in sorted(CLIPS) for q in ("3", "2", "1")]


def _create(folder: Path, gate: Any) -> None:
    gate.wait()
    Store(folder, plan()).close()


def test_many_that_create_the_store_at_once_all_end_with_a_good_one(tmp_path: Path) -> None:
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        gate = forked.Barrier(4)
        with (
            child(_create, folder, gate) as one,
            child(_create, folder, gate) as two,
            child(_create, folder, gate) as three,
            child(_create, folder, gate) as four,
        ):
            assert ended(one, two, three, four) == [0, 0, 0, 0]
        with Store(folder) as store:
            assert store.plan == plan()


def _write_until_killed(folder: Path) -> None:
    with Store(folder, plan(MANY), resume=True) as store:
        finished = store.finished()
        for one in everything(MANY):
            if (one.cell, one.clip) not in finished:
                store.add(one)


def _measured(folder: Path) -> int:
    """Count the cells × clips of a store that another process writes to; 0 before it exists."""
    try:
        with closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM measurements").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_answers_and_the_rest_can_be_added(tmp_path: Path) -> None:
    """Some kills come while the store is created, some after a few more answers."""
    draw = random.Random(0)
    folder = tmp_path / "killed"
    folder.mkdir()
    total, before = len(MANY) * len(CLIPS), 0
    for number in range(20):
        until = before + draw.randint(1, total // 25) if number > 4 else 0
        with child(_write_until_killed, folder) as writer:
            time.sleep(draw.uniform(0, 0.004))
            while _measured(folder) < until:
                time.sleep(0.0002)
            os.kill(writer.pid, signal.SIGKILL)  # type: ignore[arg-type]
        if (folder / FILE).exists() and (folder / FILE).stat().st_size:
            shutil.copytree(folder, copy := tmp_path / f"copy{number}")
            now = whole(copy)  # of a copy, so that the next writer finds what the kill left
            assert before <= now < total
            before = now
    assert before
    _write_until_killed(folder)
    assert whole(folder) == total
    with Store(tmp_path / "undisturbed", plan(MANY)) as calm, Store(folder) as store:
        for one in everything(MANY):
            calm.add(one)
        assert store.rows() == calm.rows()


def test_it_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with Store(tmp_path, plan()) as writer, Store(tmp_path) as reader:
        assert raw(tmp_path, "PRAGMA journal_mode") == [("wal",)]
        for count, one in enumerate(everything(), 1):
            writer.add(one)
            assert len(reader.rows()) == count * QUESTIONS
        with pytest.raises(SweepError, match="readonly"):
            reader.add(done(CELLS[0], "new.mp4"))


def _read(folder: Path, count: int) -> None:
    if os.getuid() == 0:
        os.setuid(65534)
    assert not os.access(folder, os.W_OK)
    with Store(folder) as store:
        assert len(store.rows()) == count


def test_a_store_at_rest_is_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        filled(sweep, 1)
        Path(folder).chmod(0o755)
        sweep.chmod(0o555)
        with child(_read, sweep, len(CLIPS) * QUESTIONS) as reader:
            assert ended(reader) == [0]
        assert [path.name for path in sweep.iterdir()] == [FILE]
        sweep.chmod(0o755)


def test_nothing_lies_beside_a_store_at_rest(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with Store(tmp_path) as store:
        store.rows()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
