"""Intervals, comparisons, retention, corrections and power, against scipy, simulations and sums done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kvpress_video.sweep.stats.clustered import PairedScores
from kvpress_video.sweep.stats.inference import accuracy, compare, detectable, fall, holm, retention

pair = PairedScores.of

# --- One method -------------------------------------------------------------------------------------------------------


def test_with_one_question_per_cluster_the_interval_is_wilsons() -> None:
    correct = np.arange(400) < 290
    found = accuracy(correct.tolist(), list(range(400)))
    wilson = stats.binomtest(290, 400).proportion_ci(method="wilson")
    assert found.mean == 0.725
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-3)
    assert (found.questions, found.clusters) == (400, 400)


def test_questions_that_agree_within_a_cluster_count_once() -> None:
    """Every cluster's eight answers are the same: as good as one question per cluster."""
    outcomes = np.arange(40) < 26
    copied = accuracy(np.repeat(outcomes, 8).tolist(), np.repeat(np.arange(40), 8).tolist())
    single = accuracy(outcomes.tolist(), list(range(40)))
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))


@pytest.mark.parametrize(("share", "alike"), [(0.75, 2.0), (0.9, 5.0), (0.4, 20.0)])
def test_intervals_have_their_nominal_coverage(share: float, alike: float) -> None:
    """Beta-binomial clusters: each clip has its own difficulty."""
    draw = np.random.default_rng(0)
    clusters = np.repeat(np.arange(32), 8).tolist()
    covered = 0
    for _ in range(600):
        difficulty = draw.beta(alike * share, alike * (1 - share), 32)
        found = accuracy((draw.random((32, 8)) < difficulty[:, None]).ravel().tolist(), clusters)
        covered += found.low <= share <= found.high
    assert 0.925 <= covered / 600 <= 0.985


def test_intervals_of_scores_between_right_and_wrong() -> None:
    """Scores that vary little have a narrow interval: Student's over the clusters' means, if these are alike."""
    draw = np.random.default_rng(3)
    covered, widths = 0, []
    for _ in range(400):
        scores = draw.beta(30, 20, (40, 4))
        found = accuracy(scores.ravel().tolist(), np.repeat(np.arange(40), 4).tolist())
        covered += found.low <= 0.6 <= found.high
        widths.append((found.high - found.low) / (2 * stats.t.ppf(0.975, 39) * scores.std() / 160**0.5))
    assert 0.92 <= covered / 400 <= 0.99
    assert 0.95 < np.mean(widths) < 1.15


@pytest.mark.parametrize("value", [False, True])
def test_answers_that_all_agree_leave_room_for_doubt(value: bool) -> None:
    found = accuracy([value] * 160, np.repeat(np.arange(20), 8).tolist())
    assert found.mean == value
    assert found.high - found.low > 0.1
    assert found.low <= value <= found.high


def test_one_cluster_says_nothing() -> None:
    assert (accuracy([True, False], [0, 0]).low, accuracy([True, False], [0, 0]).high) == (0, 1)
    assert compare(pair({1: True}, {1: False}, {1: "clip"})).p == 1
    assert fall(pair({1: False}, {1: True}, {1: "clip"})) == 1
    assert detectable(compare(pair({1: True}, {1: False}, {1: "clip"}))) == 1


def test_no_questions_and_no_clusters_are_errors() -> None:
    with pytest.raises(ValueError, match="no questions"):
        accuracy([], [])
    with pytest.raises(ValueError, match="2 answers in 1 clusters"):
        accuracy([True, True], [0])
    with pytest.raises(ValueError, match="2 answers in 3 weights"):
        accuracy([True, True], [0, 1], weights=[1, 1, 1])
    with pytest.raises(ValueError, match="positive"):
        accuracy([True, True], [0, 1], weights=[1, 0])
    with pytest.raises(ValueError, match="no questions"):
        compare(pair({1: True}, {2: True}, {1: 0, 2: 0}))


# --- Weights ----------------------------------------------------------------------------------------------------------


def test_a_question_of_weight_two_counts_like_two_of_its_cluster() -> None:
    draw = np.random.default_rng(4)
    right, clusters, twice = (draw.random(20) < 0.7).repeat(3), np.arange(60) // 3, draw.random(60) < 0.5
    weighted = accuracy(right.tolist(), clusters.tolist(), weights=(1.0 + twice).tolist())
    copied = accuracy([*right, *right[twice]], [*clusters, *clusters[twice]])
    assert weighted.mean == pytest.approx(copied.mean)
    assert weighted.low == pytest.approx(copied.low)


def draw_tasks(draw: np.random.Generator, apart: bool) -> tuple[list[bool], list[int], list[float], list[int]]:
    """Three tasks of unequal size and difficulty; each video is of one task (`apart`), or asks about all."""
    sizes, shares = (12, 30, 60), (0.3, 0.6, 0.9)
    right, clusters, weights, strata = [], [], [], []
    video = 0
    for task, (size, share) in enumerate(zip(sizes, shares, strict=True)):
        alike = draw.beta(8 * share, 8 * (1 - share), 60)
        for number in range(size):
            place = number // 2
            right.append(bool(draw.random() < alike[place]))
            clusters.append(video + place if apart else place)
            weights.append(1 / size)
            strata.append(task)
        video += size // 2
    return right, clusters, weights, strata


@pytest.mark.parametrize("apart", [True, False])
def test_intervals_of_a_mean_of_tasks_means_cover_the_truth(apart: bool) -> None:
    draw = np.random.default_rng(5)
    covered, widths, widths_without = 0, 0.0, 0.0
    for _ in range(600):
        right, clusters, weights, strata = draw_tasks(draw, apart)
        found = accuracy(right, clusters, weights=weights, strata=strata)
        covered += found.low <= 0.6 <= found.high
        without = accuracy(right, clusters, weights=weights)
        widths += found.high - found.low
        widths_without += without.high - without.low
        naive = np.mean([np.mean([r for r, s in zip(right, strata, strict=True) if s == task]) for task in range(3)])
        assert found.mean == pytest.approx(naive)
    assert 0.92 <= covered / 600 <= 0.985
    assert widths < 0.95 * widths_without


def test_a_stratum_of_one_cluster_does_not_pass_for_certain() -> None:
    right = [True, False, True, True, False, True, True]
    found = accuracy(right, list(range(7)), weights=[1, 1, 1, 1, 1, 1, 3], strata=[0, 0, 0, 1, 1, 1, 2])
    assert found.high - found.low > 0.5


# --- Two methods ------------------------------------------------------------------------------------------------------


def test_a_paired_comparison_of_unclustered_questions_is_the_paired_t_test() -> None:
    draw = np.random.default_rng(1)
    left, right = (dict(enumerate((draw.random(200) < share).tolist())) for share in (0.8, 0.7))
    found = compare(pair(left, right, {key: key for key in left}))
    expected = stats.ttest_rel([float(x) for x in left.values()], [float(x) for x in right.values()])
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_equal_answers_do_not_differ() -> None:
    answers = {number: number % 3 == 0 for number in range(30)}
    found = compare(pair(answers, answers, {number: number // 5 for number in answers}))
    assert (found.mean, found.p) == (0, 1)
    assert found.low == -found.high
    assert 0 < found.high < 0.15
    assert fall(pair(answers, answers, {number: number // 5 for number in answers})) == 1


def test_clusters_that_all_differ_by_the_same_are_judged_by_their_number() -> None:
    left, right = {n: n % 4 == 0 for n in range(16)}, dict.fromkeys(range(16), True)
    clusters = {n: n // 4 for n in range(16)}
    found = compare(pair(left, right, clusters))
    assert (found.mean, found.p) == (-0.75, 2**-3)
    assert found.low < -0.75 < found.high
    assert fall(pair(left, right, clusters)) == 2**-4
    assert fall(pair(right, left, clusters)) == 1


def test_only_shared_questions_are_compared() -> None:
    found = compare(pair({1: True, 2: True, 3: True}, {2: True, 3: True, 4: False}, {1: 1, 2: 2, 3: 3, 4: 4}))
    assert (found.questions, found.mean) == (2, 0)


Verdict = Callable[[dict[int, bool], dict[int, bool], dict[int, int]], float]


@pytest.mark.parametrize(
    ("p", "highest"),
    [
        (lambda left, right, clusters: compare(pair(left, right, clusters)).p, 0.085),
        (lambda left, right, clusters: fall(pair(left, right, clusters)), 0.07),
    ],
    ids=["difference", "fall"],
)
def test_equally_good_methods_are_told_apart_in_one_of_twenty_cases(p: Verdict, highest: float) -> None:
    draw = np.random.default_rng(2)
    clusters = {number: number // 8 for number in range(256)}
    alarms = 0
    for _ in range(400):
        difficulty = draw.beta(3, 2, 32).repeat(8)
        left, right = (dict(enumerate((draw.random(256) < difficulty).tolist())) for _ in range(2))
        alarms += p(left, right, clusters) < 0.05
    assert 0.015 < alarms / 400 < highest


def test_a_fall_of_few_clusters_is_judged_by_every_way_to_flip_their_signs() -> None:
    draw = np.random.default_rng(6)
    tried = 0
    for _ in range(20):
        gains = draw.choice([-2, -1, 0, 0, 0, 0, 0, 0, 1], 24)
        base = {(video, n): n < max(0, -gain) for video, gain in enumerate(gains) for n in range(2)}
        new = {(video, n): n < max(0, gain) for video, gain in enumerate(gains) for n in range(2)}
        differing = gains[gains != 0]
        assert 0 < len(differing) <= 16
        flips = stats.permutation_test(
            (differing.astype(float),),
            np.sum,
            permutation_type="samples",
            alternative="less",
            n_resamples=np.inf,
            vectorized=False,
        )
        student = stats.ttest_1samp(gains, 0, alternative="less")
        found = fall(pair(new, base, {key: key[0] for key in base}))
        assert found == pytest.approx(max(flips.pvalue, student.pvalue))
        tried += flips.pvalue > student.pvalue
    assert tried > 3


def test_a_rare_flip_does_not_raise_the_alarm_too_often() -> None:
    """Reruns flip an answer here and there; Student's t alone takes four falls on 48 clips for significant."""
    draw = np.random.default_rng(7)
    clusters = {number: number // 4 for number in range(192)}
    base = dict.fromkeys(range(192), True) | dict.fromkeys(range(0, 192, 2), False)
    alarms = 0
    for _ in range(1000):
        flipped = set(draw.choice(192, draw.poisson(4), replace=False).tolist())
        new = {key: value != (key in flipped) for key, value in base.items()}
        alarms += fall(pair(new, base, clusters)) < 0.05
    assert alarms / 1000 < 0.05
    four = {key: value and key not in (1, 5, 9, 13) for key, value in base.items()}
    assert fall(pair(four, base, clusters)) == 2**-4
    assert compare(pair(four, base, clusters)).p / 2 < 0.05


def test_a_fall_that_is_tolerated() -> None:
    draw = np.random.default_rng(8)
    base = {number: bool(draw.random() < 0.9) for number in range(2000)}
    new = {number: right and draw.random() < 0.95 for number, right in base.items()}
    clusters = {number: number // 4 for number in base}
    assert fall(pair(new, base, clusters)) < 1e-6
    assert fall(pair(new, base, clusters), keep=0.9) > 0.5
    assert fall(pair(new, base, clusters), keep=0.98) < 0.01


# --- Retention --------------------------------------------------------------------------------------------------------


def draw_retained(draw: np.random.Generator) -> tuple[dict[int, bool], dict[int, bool], dict[int, int]]:
    """`right` answers 80% correctly; `left` keeps 85% of these and gains 10% of the rest: 70% in all, 7/8 retained."""
    difficulty = draw.beta(8, 2, 40).repeat(6)
    right = draw.random(240) < difficulty
    left = np.where(right, draw.random(240) < 0.85, draw.random(240) < 0.10)
    clusters = {number: number // 6 for number in range(240)}
    return dict(enumerate(left.tolist())), dict(enumerate(right.tolist())), clusters


def test_retention_agrees_with_a_bootstrap_of_clusters() -> None:
    draw = np.random.default_rng(9)
    left, right, clusters = draw_retained(draw)
    found = retention(pair(left, right, clusters))
    assert found is not None
    assert found.mean == pytest.approx(sum(left.values()) / sum(right.values()))
    ours, theirs = (np.array([*side.values()], dtype=float).reshape(40, 6).sum(1) for side in (left, right))
    picked = draw.integers(0, 40, (10_000, 40))
    low, high = np.percentile(ours[picked].sum(1) / theirs[picked].sum(1), [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_intervals_of_retention_cover_the_truth() -> None:
    draw = np.random.default_rng(10)
    found = [retention(pair(*draw_retained(draw))) for _ in range(600)]
    assert 0.925 <= np.mean([one is not None and one.low <= 0.875 <= one.high for one in found]) <= 0.975


def test_retention_of_weighted_questions_is_the_ratio_of_weighted_means() -> None:
    left, right = {1: True, 2: False, 3: True}, {1: True, 2: True, 3: False}
    found = retention(pair(left, right, {1: 1, 2: 2, 3: 3}, weights={1: 1.0, 2: 2.0, 3: 5.0}))
    assert found is not None
    assert found.mean == pytest.approx(6 / 3)


def test_retention_of_nothing_is_none_and_of_the_same_is_one() -> None:
    answers = {number: number % 3 == 0 for number in range(30)}
    clusters = {number: number // 5 for number in range(30)}
    assert retention(pair(answers, dict.fromkeys(range(30), False), clusters)) is None
    same = retention(pair(answers, answers, clusters))
    assert same is not None
    assert same.mean == 1
    assert same.low < 1 < same.high


# --- Families and power -----------------------------------------------------------------------------------------------


def test_holms_correction_done_by_hand() -> None:
    """The textbook example: sorted p times 4, 3, 2, 1, never less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_detectable_difference_is_detected_four_times_in_five() -> None:
    draw = np.random.default_rng(11)
    clusters = {number: number // 4 for number in range(240)}

    def run(drop: float) -> tuple[dict[int, bool], dict[int, bool]]:
        """Flip one answer in twenty, as reruns do, and lose the fraction `drop` of the right ones."""
        base = draw.random(240) < draw.beta(14, 6, 60).repeat(4)
        new = np.where(draw.random(240) < 0.05, ~base, base)
        new &= draw.random(240) >= drop
        return dict(enumerate(new.tolist())), dict(enumerate(base.tolist()))

    noise = 0.05 * (0.7 - 0.3)
    smallest = float(np.mean([detectable(compare(pair(*run(0), clusters)), sides=1) for _ in range(50)]))
    lost = (smallest - noise) / (0.7 - noise)
    seen = np.mean([fall(pair(*run(lost), clusters)) < 0.05 for _ in range(300)])
    assert 0.7 < seen < 0.9


def test_equal_answers_on_few_questions_can_hide_a_difference() -> None:
    """One answer of ten may well fall: no test could tell."""
    answers, clusters = dict.fromkeys(range(10), True), {number: number for number in range(10)}
    assert 0.3 < detectable(compare(pair(answers, answers, clusters))) < 0.9


def test_more_clips_and_a_laxer_test_show_smaller_differences() -> None:
    found: Any = compare(
        pair(
            {number: number % 3 > 0 for number in range(60)},
            {number: number % 4 > 0 for number in range(60)},
            {number: number // 2 for number in range(60)},
        )
    )
    assert detectable(replace(found, error=found.error / 2)) < detectable(found)
    assert detectable(found, sides=1) < detectable(found) < detectable(found, alpha=0.001)
    assert detectable(found, power=0.5) < detectable(found)
