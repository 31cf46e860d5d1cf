"""Small local copies of the public benchmarks that ask while a video runs; and all copies by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvpress_video.benchmarks.public.ovo_bench import OVOBench
from kvpress_video.benchmarks.public.rvs import RVSEgo, RVSMovie
from kvpress_video.benchmarks.public.streamingbench import StreamingBench
from public_copies import (
    ANIMALS,
    Copy,
    touch,
    write_egoschema,
    write_json,
    write_longvideobench,
    write_lvbench,
    write_lvbench_rows,
    write_mlvu,
    write_video_mme,
    write_vnbench,
)


def streaming_question(task: str, stamp: str, answer: str, options: Sequence[str]) -> dict[str, Any]:
    return {
        "task_type": task,
        "question": f"What is there at {stamp}?",
        "time_stamp": stamp,
        "answer": answer,
        "options": list(options),
        "required_ability": "working memory",
    }


LETTERED = ("A. one", "B. two", "C. three", "D. four")
BARE = ("one", "two", "three", "four")


def write_streamingbench(root: Path) -> Copy:
    real = [
        ("sample_1_real", [("Object Perception", "00:00:30", "A"), ("Counting", "00:00:30", "B")]),
        ("sample_1_real", [("Counting", "00:03:10", "C")]),
        ("sample_2_real", [("Counting", "01:00:05", "D")]),
    ]
    copy = Copy(root, StreamingBench)
    entries, number = [], 0
    for name, asked in real:
        path = f"./videos/{name}.mp4"
        questions = [streaming_question(task, stamp, answer, LETTERED) for task, stamp, answer in asked]
        entries.append({"time": "[]", "questions": questions, "video_categories": "x", "video_path": path})
        for _, _, answer in asked:
            copy.right[path, str(number)] = answer
            number += 1
    write_json(root / "questions_real.json", entries)
    sequence = [
        {"time": "", "video_categories": "", "video_path": "./videos/s_sqa.mp4", "questions": [question]}
        for question in (
            streaming_question("Sequential", "00:00:36", "A", BARE),
            streaming_question("Sequential", "00:03:02", "C", BARE),
        )
    ]
    write_json(root / "questions_sqa.json", [sequence])
    touch(root, ["data/real/sample_1_real.mp4", "data/real/sample_2_real.mp4", "data/sqa/s_sqa.mp4"])
    copy.official = [[key] for key in copy.right]
    return copy


def ovo_items() -> list[dict[str, Any]]:
    def choice(number: int, task: str, time: float, place: int) -> dict[str, Any]:
        return {
            "id": number,
            "task": task,
            "video": f"Ego4D/clips/{number % 2}.mp4",
            "realtime": time,
            "question": "What did I chop?",
            "answer": ANIMALS[place],
            "options": list(ANIMALS[:4]),
            "gt": place,
        }

    return [
        choice(0, "EPM", 215, 2),
        choice(1, "EPM", 244, 0),
        choice(2, "EPM", 215, 1),
        choice(3, "HLD", 30, 3),
        choice(4, "OCR", 31, 1),
        choice(5, "ACR", 2, 1),
        {
            "id": 6,
            "task": "REC",
            "video": "perception_test/v.mp4",
            "activity": "breaking something",
            "test_info": [{"realtime": 17, "count": 0}, {"realtime": 19, "count": 12}, {"realtime": 32.0, "count": 2}],
        },
        {
            "id": 7,
            "task": "SSR",
            "video": "COIN/c.mp4",
            "tutorial": "MakeCandle",
            "test_info": [
                {"realtime": 100, "step": "melt the wax", "type": 0},
                {"realtime": 103, "step": "pour the wax", "type": 1},
            ],
        },
        {
            "id": 8,
            "task": "CRR",
            "video": "MovieNet/m.mp4",
            "question": "What does she do to the car?",
            "answer": "She walks past it.",
            "ask_time": 297,
            "clue_time": 308,
            "test_info": [{"realtime": 297, "type": 0}, {"realtime": 310, "type": 1}],
        },
    ]


def write_ovo_bench(root: Path) -> Copy:
    items = ovo_items()
    write_json(root / "ovo_bench_new.json", items)
    touch(root / "src_videos", [item["video"] for item in items])
    copy = Copy(root, OVOBench)
    tasks: dict[str, list[list[Any]]] = {}
    for item in items:
        tests = item.get("test_info", [])
        if not tests:
            copy.right[item["video"], str(item["id"])] = "ABCD"[item["gt"]]
            tasks.setdefault(item["task"], []).append([(item["video"], str(item["id"]))])
        for number, test in enumerate(tests):
            key = (item["video"], f"{item['id']}_{number}")
            copy.right[key] = str(test["count"]) if "count" in test else ("No", "Yes")[test["type"]]
            tasks.setdefault(item["task"], []).append([key])
    copy.official = [
        [tasks["EPM"], tasks["HLD"]],
        [tasks["OCR"], tasks["ACR"]],
        [tasks["REC"], tasks["SSR"], tasks["CRR"]],
    ]
    return copy


def write_rvs(root: Path, benchmark: type[Any] = RVSEgo) -> Copy:
    name, folder = ("ego4d_oe.json", "ego") if benchmark is RVSEgo else ("movienet_oe.json", "movie")
    asked = [
        {"question": "What is chopped?", "answer": "Vegetables.", "start_time": 0, "end_time": 300},
        {"question": "Is it a kitchen?", "answer": "Yes.", "start_time": 0, "end_time": 300},
        {"question": "What comes next?", "answer": "A pan.", "start_time": 270, "end_time": 570},
    ]
    path = f"/data/rvs/{folder}/videos/9198.mp4"
    write_json(
        root / folder / name,
        [{"video_id": "9198", "video_path": path, "duration": 3600.0, "conversations": asked}],
    )
    touch(root, [f"{folder}/videos/9198.mp4"])
    right = {("9198", str(turn)): str(conversation["answer"]) for turn, conversation in enumerate(asked)}
    return Copy(root, benchmark, right, [[key] for key in right])


def write_rvs_movie(root: Path) -> Copy:
    return write_rvs(root, RVSMovie)


CHOICES = {
    "video-mme": write_video_mme,
    "mlvu": write_mlvu,
    "longvideobench": write_longvideobench,
    "egoschema": write_egoschema,
    "lvbench": write_lvbench,
    "lvbench-rows": write_lvbench_rows,
    "vnbench": write_vnbench,
    "streamingbench": write_streamingbench,
}
"""Copies of which every question has lettered options."""

SCORED = CHOICES | {"ovo-bench": write_ovo_bench}
ALL = SCORED | {"rvs-ego": write_rvs, "rvs-movie": write_rvs_movie}
