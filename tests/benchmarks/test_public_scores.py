"""Public benchmarks: every question scored as its authors do, and averaged as they do."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.public.multiple_choice import bracketed_letter, first_letter, plain_options
from public_copies import Copy, write_egoschema, write_longvideobench, write_lvbench, write_mlvu, write_vnbench
from public_streams import ALL, CHOICES, SCORED, write_rvs

from kvpress_video.errors import BenchmarkError, UnknownNameError
from kvpress_video.sweep.benchmark import Benchmark, Question

Key = tuple[str, str]


def questions(benchmark: Benchmark, folder: Path) -> dict[Key, Question]:
    asked = [(clip.video, question) for clip in benchmark.clips(0, folder) for question in clip.questions]
    by_key = {(video, question.id): question for video, question in asked}
    assert len(by_key) == len(asked)
    return by_key


def by_levels(benchmark: Benchmark, asked: Mapping[Key, Question], answers: Mapping[Key, str]) -> float:
    """The mean that `Benchmark.levels` and `Question.unit` describe."""
    units: dict[Any, list[float]] = {}
    for key, question in asked.items():
        levels = tuple(getattr(question, level) for level in benchmark.levels)
        score = benchmark.score(question, answers[key])
        assert score is not None
        units.setdefault((levels, question.unit or key), []).append(score)
    scores: dict[tuple[str, ...], list[float]] = {}
    for (levels, _), parts in units.items():
        scores.setdefault(levels, []).append(min(parts))
    for _ in benchmark.levels:
        means: dict[tuple[str, ...], list[float]] = {}
        for levels, parts in scores.items():
            means.setdefault(levels[:-1], []).append(sum(parts) / len(parts))
        scores = means
    return sum(scores[()]) / len(scores[()])


def official(tree: Any, right: Mapping[Key, bool]) -> float:
    """The mean that the copy's tree describes: a list of keys is one item, right if all of them are."""
    if isinstance(tree[0], tuple):
        return float(all(right[key] for key in tree))
    return sum(official(branch, right) for branch in tree) / len(tree)


@pytest.mark.parametrize("write", SCORED.values(), ids=SCORED)
def test_a_perfect_answerer_gets_one(write: Callable[[Path], Copy], tmp_path: Path) -> None:
    copy = write(tmp_path / "copy")
    benchmark = copy.open()
    asked = questions(benchmark, tmp_path)
    assert set(asked) == set(copy.right)
    assert by_levels(benchmark, asked, copy.right) == 1.0


@pytest.mark.parametrize("write", SCORED.values(), ids=SCORED)
@pytest.mark.parametrize("seed", range(5))
def test_the_mean_is_the_official_one(write: Callable[[Path], Copy], seed: int, tmp_path: Path) -> None:
    copy = write(tmp_path / "copy")
    benchmark = copy.open()
    asked = questions(benchmark, tmp_path)
    draw = random.Random(seed)
    right = {key: draw.random() < 0.8 for key in sorted(copy.right)}
    answers = {key: copy.right[key] if right[key] else "none" for key in right}
    assert by_levels(benchmark, asked, answers) == pytest.approx(official(copy.official, right))


@pytest.mark.parametrize("write", CHOICES.values(), ids=CHOICES)
def test_a_random_answerer_is_right_once_in_as_many_options(write: Callable[[Path], Copy], tmp_path: Path) -> None:
    benchmark = write(tmp_path / "copy").open()
    for question in questions(benchmark, tmp_path).values():
        scores = [benchmark.score(question, letter) for letter in "ABCDE"[: len(question.options)]]
        assert sorted(scores) == [0.0] * (len(question.options) - 1) + [1.0]
        assert benchmark.score(question, "") == 0
        assert benchmark.score(question, "i cannot tell") == 0


@pytest.mark.parametrize("write", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("form", ["{}", "{}.", "{}\n", " {}", "({})", "({}) it is", "{}. it is", "The answer is ({})"])
def test_a_letter_is_read_however_it_is_put(write: Callable[[Path], Copy], form: str, tmp_path: Path) -> None:
    copy = write(tmp_path / "copy")
    benchmark = copy.open()
    for key, question in questions(benchmark, tmp_path).items():
        for letter in "ABCDE"[: len(question.options)]:
            assert benchmark.score(question, form.format(letter)) == float(letter == copy.right[key]), (form, letter)


def test_mlvu_is_the_mean_of_its_tasks_not_of_its_questions(tmp_path: Path) -> None:
    copy = write_mlvu(tmp_path / "copy")
    benchmark = copy.open()
    asked = questions(benchmark, tmp_path)
    answers = {key: answer if "plotQA" in key[0] else "none" for key, answer in copy.right.items()}
    assert by_levels(benchmark, asked, answers) == pytest.approx(1 / 7)
    plain = sum(benchmark.score(question, answers[key]) for key, question in asked.items()) / len(asked)
    assert plain == pytest.approx(5 / 15)


def test_vnbench_three_of_four_tries_are_nothing(tmp_path: Path) -> None:
    copy = write_vnbench(tmp_path / "copy")
    benchmark = copy.open()
    asked = questions(benchmark, tmp_path)
    answers = {key: "none" if key[1] == "2" else answer for key, answer in copy.right.items()}
    assert sum(benchmark.score(question, answers[key]) for key, question in asked.items()) == 0.75 * len(asked)
    assert by_levels(benchmark, asked, answers) == 0.0
    video = "/VNBench_new/5_ord_edit1.mp4"
    answers |= {key: answer for key, answer in copy.right.items() if key[0] == video}
    assert by_levels(benchmark, asked, answers) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The best answer is: C", "C"),
        ("Best answer: C", "C"),
        ("Best option: (D)", "D"),
        ("it is B, not C", "B"),
        ("E", ""),
        ("", ""),
        ("none of them", ""),
    ],
)
def test_the_first_letter(answer: str, letter: str) -> None:
    assert first_letter(answer, 4) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B) Apple", "B"), ("(B) Apple", "B"), ("An answer (B)", "B"), ("B", ""), ("x)", ""), (")", ""), ("E) no", "")],
)
def test_the_letter_in_brackets(answer: str, letter: str) -> None:
    assert bracketed_letter(answer, 4) == letter


def test_vnbench_reads_what_stands_before_the_first_stop(tmp_path: Path) -> None:
    benchmark = write_vnbench(tmp_path / "copy").open()
    question = Question("0", "", "B", "ret", options=("a", "b", "c", "d"))
    assert benchmark.score(question, "B. A dog") == 1
    assert benchmark.score(question, "B or A") == 0
    assert benchmark.score(question, "dunno. B") == 0


@pytest.mark.parametrize("write", [write_mlvu, write_lvbench])
def test_brackets_go_before_the_first_letter(write: Callable[[Path], Copy], tmp_path: Path) -> None:
    copy = write(tmp_path / "copy")
    benchmark = copy.open()
    for key, question in questions(benchmark, tmp_path).items():
        for letter in "ABCD":
            assert benchmark.score(question, f"Answer: ({letter}) A dog.") == float(letter == copy.right[key])


def test_options_lose_their_letters_only_if_all_have_them() -> None:
    assert plain_options(["A. x", "B. y"]) == ("x", "y")
    assert plain_options(["(A) x", "(B) y"]) == ("x", "y")
    assert plain_options(["A.x", "B.y"]) == ("x", "y")
    assert plain_options(["A. Lincoln", "G. Washington"]) == ("A. Lincoln", "G. Washington")


def test_ovo_bench_scores_as_its_authors_do(tmp_path: Path) -> None:
    benchmark = ALL["ovo-bench"](tmp_path / "copy").open()
    count = Question("0", "", "12", "REC")
    assert [benchmark.score(count, said) for said in ("12", "12 times", "1 and 2", "twelve", "2")] == [1, 1, 1, 0, 0]
    step = Question("0", "", "No", "SSR")
    assert [benchmark.score(step, said) for said in ("No", "No.", "N", "no", "Yes", "Not yet")] == [1, 1, 1, 0, 0, 1]
    choice = Question("0", "", "C", "EPM", options=("a", "b", "c"))
    assert [benchmark.score(choice, said) for said in ("C", "C. it", "c", "B")] == [1, 1, 0, 0]


def test_egoschema_takes_the_words_of_an_option_too(tmp_path: Path) -> None:
    benchmark = write_egoschema(tmp_path / "copy").open()
    question = questions(benchmark, tmp_path)["u2", "u2"]
    assert question.expected == "B"
    for said in ("C meets a cat.", "C meets a cat", "B. C meets a cat.", "B"):
        assert benchmark.score(question, said) == 1
        assert benchmark.submission(question, said) == 1
    assert benchmark.score(question, "C meets a cow.") == 0
    assert benchmark.submission(question, "?") == -1


@pytest.mark.parametrize(("write", "split"), [(write_egoschema, "full"), (write_longvideobench, "test")])
def test_questions_without_a_public_answer_are_not_scored(
    write: Callable[[Path], Copy], split: str, tmp_path: Path
) -> None:
    benchmark = write(tmp_path / "copy").open(split=split)
    asked = questions(benchmark, tmp_path).values()
    scores = {benchmark.score(question, "A") for question in asked if not question.expected}
    assert scores == {None}
    assert {benchmark.chosen(question, "B") for question in asked} == {"B"}


def strict_judge(question: str, expected: str, answer: str) -> float:
    assert question.endswith("?")
    return float(answer == expected)


def wild_judge(question: str, expected: str, answer: str) -> float:
    return 5.0


def test_rvs_is_scored_by_the_judge_alone(tmp_path: Path) -> None:
    copy = write_rvs(tmp_path / "copy")
    benchmark = copy.open()
    asked = questions(benchmark, tmp_path)
    assert {benchmark.score(question, "Yes.") for question in asked.values()} == {None}
    judged = copy.open(judge=f"{__name__}:strict_judge")
    assert by_levels(judged, asked, copy.right) == 1
    assert by_levels(judged, asked, dict.fromkeys(copy.right, "Yes.")) == pytest.approx(1 / 3)


def test_an_invalid_judge_is_refused_at_once(tmp_path: Path) -> None:
    copy = write_rvs(tmp_path / "copy")
    with pytest.raises(UnknownNameError, match="judge 'strict'"):
        copy.open(judge="strict")
    with pytest.raises(BenchmarkError, match="no judge 'nowhere:judge'"):
        copy.open(judge="nowhere:judge")
    wild = copy.open(judge=f"{__name__}:wild_judge")
    with pytest.raises(BenchmarkError, match=r"says 5\.0"):
        wild.score(Question("0", "Why?", "so", "x"), "so")
