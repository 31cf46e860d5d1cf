"""Small local copies of the public benchmarks, in their real shape, with right answers noted while they are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvpress_video.benchmarks.public.egoschema import EgoSchema
from kvpress_video.benchmarks.public.longvideobench import LongVideoBench
from kvpress_video.benchmarks.public.lvbench import LVBench
from kvpress_video.benchmarks.public.mlvu import MLVU
from kvpress_video.benchmarks.public.video_mme import VideoMME
from kvpress_video.benchmarks.public.vnbench import VNBench

ANIMALS = ("a dog", "a cat", "a cow", "a hen", "a fox")


@dataclass
class Copy:
    """A local copy.

    Attributes:
        root: its folder.
        benchmark: the class that reads it.
        right: the right answers by (video, question id), as a model would write them.
        official: the same keys in the groups that the official score averages within: a tree whose leaves are lists of
            keys that count as one.
    """

    root: Path
    benchmark: type[Any]
    right: dict[tuple[str, str], str] = field(default_factory=dict)
    official: Any = field(default_factory=list)

    def open(self, **options: Any) -> Any:
        return self.benchmark(path=str(self.root), **options)


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def touch(root: Path, names: Sequence[str]) -> None:
    """Fake videos: that they exist is enough."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")


def video_mme_rows() -> list[dict[str, Any]]:
    lengths = ("short", "medium", "long", "short")
    return [
        {
            "video_id": f"{number:03d}",
            "duration": length,
            "domain": "Knowledge",
            "sub_category": "Geography",
            "url": "",
            "videoID": f"yt{number}",
            "question_id": f"{number:03d}-{turn}",
            "task_type": ("Counting Problem", "OCR Problems", "Action Reasoning")[turn],
            "question": f"What is shown, {number}.{turn}?",
            "options": ["A. Black.", "B. Gray.", "C. Green.", "D. Brown."],
            "answer": "ABCD"[(number + turn) % 4],
        }
        for number, length in enumerate(lengths)
        for turn in range(3)
    ]


def write_video_mme(root: Path) -> Copy:
    import pyarrow
    from pyarrow import parquet

    rows = video_mme_rows()
    (root / "videomme").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "videomme/test-00000-of-00001.parquet")
    touch(root, [f"data/yt{number}.mp4" for number in range(4)])
    right = {(row["videoID"], row["question_id"]): row["answer"] for row in rows}
    return Copy(root, VideoMME, right, [[key] for key in right])


MLVU_COUNTS = {
    "1_plotQA": 5,
    "2_needle": 1,
    "3_ego": 2,
    "4_count": 1,
    "5_order": 3,
    "6_anomaly_reco": 1,
    "7_topic_reasoning": 2,
}


def write_mlvu(root: Path) -> Copy:
    copy = Copy(root, MLVU)
    for name, count in MLVU_COUNTS.items():
        items = [
            {
                "video": f"{name[2:]}_{number // 2}.mp4",
                "duration": 480.0,
                "question": f"Which animal, {number}?",
                "candidates": list(ANIMALS[:4]),
                "answer": ANIMALS[number % 4],
                "question_type": name[2:],
            }
            for number in range(count)
        ]
        write_json(root / f"json/{name}.json", items)
        touch(root / f"video/{name}", [item["video"] for item in items])
        keys = [(f"{name}/{item['video']}", f"{name}-{number}") for number, item in enumerate(items)]
        copy.right |= {key: "ABCD"[number % 4] for number, key in enumerate(keys)}
        copy.official.append([[key] for key in keys])
    return copy


def write_longvideobench(root: Path) -> Copy:
    items = [
        {
            "id": f"v{number}_0",
            "video_id": f"v{number}",
            "video_path": f"v{number}.mp4",
            "question": f"Who comes, {number}?",
            "candidates": list(ANIMALS[: 4 + number % 2]),
            "correct_choice": 3 + number % 2,
            "duration": (8.2, 45.0, 500.0)[number],
            "duration_group": (15, 60, 600)[number],
            "question_category": ("S2E", "T3O", "T3O")[number],
            "subtitle_path": f"v{number}_en.json",
            "starting_timestamp_for_subtitles": 100.0,
        }
        for number in range(3)
    ]
    write_json(root / "lvb_val.json", items)
    hidden = ("correct_choice",)
    write_json(root / "lvb_test_wo_gt.json", [{k: v for k, v in item.items() if k not in hidden} for item in items])
    write_json(
        root / "subtitles/v0_en.json",
        [
            {"timestamp": [90.0, 95.0], "text": "before"},
            {"timestamp": [101.0, 103.0], "text": "hello"},
            {"timestamp": [107.0, None], "text": "bye"},
            {"timestamp": [200.0, 201.0], "text": "after"},
        ],
    )
    said = [{"start": "00:01:41.0", "end": "00:01:42.500", "line": "good day"}]
    write_json(root / "subtitles/v1_en.json", said)
    write_json(root / "subtitles/v2_en.json", said)
    touch(root, [f"videos/v{number}.mp4" for number in range(3)])
    right = {(item["video_path"], item["id"]): "ABCDE"[item["correct_choice"]] for item in items}
    return Copy(root, LongVideoBench, right, [[key] for key in right])


def write_egoschema(root: Path) -> Copy:
    questions = [
        {"q_uid": f"u{number}", "google_drive_id": "", "question": f"What does C do, {number}?"}
        | {f"option {place}": f"C meets {animal}." for place, animal in enumerate(ANIMALS)}
        for number in range(4)
    ]
    answers = {"u0": 4, "u2": 1, "u3": 0}
    write_json(root / "questions.json", questions)
    write_json(root / "subset_answers.json", answers)
    touch(root, [f"videos/u{number}.mp4" for number in range(4)])
    right = {(name, name): "ABCDE"[place] for name, place in answers.items()}
    return Copy(root, EgoSchema, right, [[key] for key in right])


def write_lvbench(root: Path) -> Copy:
    """The authors' JSON lines: one video a line, options inside the question."""
    lines, copy = [], Copy(root, LVBench)
    for number in range(2):
        asked = [
            {
                "uid": str(10 * number + turn),
                "question": "What year appears?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
                "answer": "ABCD"[number + turn],
                "question_type": (["key information retrieval"], ["entity recognition", "reasoning"])[turn],
                "time_reference": "00:15-00:19",
            }
            for turn in range(2)
        ]
        lines.append(json.dumps({"key": f"Cm{number}", "type": "cartoon", "video_info": {}, "qa": asked}))
        copy.right |= {(f"Cm{number}", qa["uid"]): qa["answer"] for qa in asked}
    root.mkdir(parents=True, exist_ok=True)
    (root / "video_info.meta.jsonl").write_text("\n".join(lines) + "\n")
    touch(root, ["all_videos/Cm0.mp4", "all_videos/Cm1.mp4"])
    copy.official = [[key] for key in copy.right]
    return copy


def write_lvbench_rows(root: Path) -> Copy:
    """lmms-eval's form: one question a row."""
    rows = [
        {"video_path": f"v{n}.mp4", "question": "What year?", "options": ["1636", "1366"], "answer": "AB"[n], "uid": n}
        for n in range(2)
    ]
    write_json(root / "lvbench.json", rows)
    touch(root, ["v0.mp4", "v1.mp4"])
    right = {(row["video_path"], str(row["uid"])): row["answer"] for row in rows}
    return Copy(root, LVBench, right, [[key] for key in right])


VNBENCH_VIDEOS = {
    "ret_edit1": ("3261_ret_edit1", "77_ret_edit1"),
    "ret_insert1": ("3261_ret_insert1",),
    "ord_edit1": ("5_ord_edit1",),
    "cnt_insert": ("9_cnt_insert", "10_cnt_insert", "11_cnt_insert"),
}


def write_vnbench(root: Path) -> Copy:
    items: list[dict[str, Any]] = []
    copy = Copy(root, VNBench)
    categories: dict[str, list[Any]] = {}
    for task, videos in VNBENCH_VIDEOS.items():
        units = []
        for video in videos:
            for attempt in range(4):
                options = [ANIMALS[(place + attempt) % 4] for place in range(4)]
                item = {"video": f"/VNBench_new/{video}.mp4", "question": "Which one?", "options": options}
                items.append(item | {"gt": "a cow", "gt_option": "", "length": 10.0, "type": task, "try": attempt})
                copy.right[item["video"], str(attempt)] = "ABCD"[options.index("a cow")]
            units.append([(f"/VNBench_new/{video}.mp4", str(attempt)) for attempt in range(4)])
            touch(root, [f"VNBench_new/{video}.mp4"])
        categories.setdefault(task.split("_")[0], []).append(units)
    write_json(root / "VNBench-main-4try.json", items)
    copy.official = list(categories.values())
    return copy
