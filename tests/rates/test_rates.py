"""Corrected stall rates against hand-computed values, statsmodels, scipy and simulations."""

import io
import json
import logging
import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from stallscan.calls.predictions import read_predictions
from stallscan.errors import InputError, TableError
from stallscan.evaluation import evaluate, present
from stallscan.rates import correction, groups_table, power, rates, rogan_gladen, tables
from stallscan.rates.correction import PERFECT, PUBLISHED, CallAccuracy
from stallscan.rates.mice import (
    corrected_difference_of_mice,
    corrected_mean_of_mice,
    mean_of_mice,
    permutation_p,
    smallest_permutation_p,
    welch,
)
from stallscan.runs import PREDICTION_COLUMNS
from stallscan.scores import intervals
from stallscan.scores.intervals import Share
from stallscan.scores.metrics import Confusion, Interval
from stallscan.words import Excluded

COUNTED = CallAccuracy.counted(425, 500, 1986, 2000)  # 85 % and 99.3 %


def write_calls(folder, calls):
    """Write predictions.csv from pairs of filename and call."""
    rows = [
        {
            "filename": name,
            "status": "ok",
            "reason": "",
            "frames": 50,
            "frames_declared": 50,
            "score": 0.5,
            "call": call,
            "threshold": 0.5,
            "bundle": "default 0123",
        }
        for name, call in calls
    ]
    path = folder / "predictions.csv"
    pd.DataFrame(rows, columns=list(PREDICTION_COLUMNS)).to_csv(path, index=False)
    return path


def write_study(folder, mice, columns=("field", "mouse", "group")):
    """Write both tables for mice given as name, group, and (stalled, flowing) calls per field."""
    calls, rows = [], []
    for mouse, group, fields in mice:
        for number, (stalled, flowing) in enumerate(fields):
            for index, call in enumerate(["stalled"] * stalled + ["flowing"] * flowing):
                name = f"{mouse}-{number}-{index}.mp4"
                calls.append((name, call))
                rows.append((name, f"{mouse}-{number}", mouse, group))
    table = pd.DataFrame(rows, columns=["filename", "field", "mouse", "group"])
    table = table[["filename", *columns]]
    table.to_csv(folder / "groups.csv", index=False)
    return write_calls(folder, calls), folder / "groups.csv"


# Two groups of three mice. Each mouse has 400 vessels in two fields of 100 and 300.
MICE = [
    ("m1", "wild", [(2, 98), (2, 298)]),
    ("m2", "wild", [(1, 99), (4, 296)]),
    ("m3", "wild", [(0, 100), (3, 297)]),
    ("m4", "model", [(6, 94), (10, 290)]),
    ("m5", "model", [(3, 97), (9, 291)]),
    ("m6", "model", [(4, 96), (16, 284)]),
]


def test_hand_worked_correction():
    # (24 / 1000 + 0.993 - 1) / (0.85 + 0.993 - 1)
    rate = correction.corrected(24, 1000, COUNTED)
    assert rate.naive == 0.024
    assert rate.estimate == rate.unclipped == pytest.approx(0.017 / 0.843)
    assert rate.interval.low < rate.estimate < rate.interval.high
    assert rate.resolvable


def test_the_five_fold_effect_that_looks_two_fold():
    # docs/facts.md 6: true rates of 0.4 % and 2 % are measured as 1.04 % and 2.39 %.
    for true, measured in ((0.004, 0.0104), (0.02, 0.0239)):
        called = true * 0.85 + (1 - true) * 0.007
        assert called == pytest.approx(measured, abs=5e-5)
        rate = correction.corrected(round(called * 10**6), 10**6, PUBLISHED)
        assert rate.estimate == pytest.approx(true, abs=2e-6)


def test_with_perfect_calls_nothing_is_corrected():
    rate = correction.corrected(24, 1000, PERFECT)
    assert rate.estimate == pytest.approx(0.024)
    assert rate.interval == pytest.approx(intervals.jeffreys(24, 1000)[1:])


@pytest.mark.parametrize(("part", "whole"), [(0, 50), (1, 50), (24, 1000), (50, 50)])
def test_intervals_are_those_of_statsmodels(part, whole):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = proportion.proportion_confint(part, whole, method="wilson")
    assert intervals.wilson(part, whole)[1:] == pytest.approx(expected, abs=1e-12)
    expected = proportion.proportion_confint(part, whole, method="jeffreys")
    low, high = intervals.jeffreys(part, whole)[1:]
    assert low == (0 if part == 0 else pytest.approx(expected[0]))
    assert high == (1 if part == whole else pytest.approx(expected[1]))


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(part, whole, low, high):
    assert intervals.wilson(part, whole)[1:] == pytest.approx((low, high), abs=5e-5)
    assert intervals.wilson(whole - part, whole)[1:] == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_a_share_lies_within_its_limits():
    # All pairs except 0 of 0. At 29 of 29, rounding could move the upper limit below 1.
    part, whole = (counts[1:] for counts in np.triu_indices(400))
    share = intervals.wilson(part, whole)
    assert (share.low >= 0).all()
    assert (share.low <= share.value).all()
    assert (share.value <= share.high).all()
    assert (share.high <= 1).all()


@given(st.integers(0, 300), st.integers(30, 60), st.integers(900, 1000))
def test_a_limit_is_where_the_distances_meet(stalled, found, left):
    errors = CallAccuracy.counted(found, 60, left, 1000)
    called, sensitivity, false = (
        intervals.jeffreys(stalled, 300),
        errors.sensitivity_share,
        errors.false_stalled,
    )
    result = rogan_gladen.correct(called, sensitivity, false)
    assert result.low <= result.value <= result.high
    rate = result.low
    gap = called.value - rate * sensitivity.value - (1 - rate) * false.value
    sides = (
        called.value - called.low,
        rate * (sensitivity.high - sensitivity.value),
        (1 - rate) * (false.high - false.value),
    )
    assert gap == pytest.approx(math.hypot(*sides), abs=1e-9)


def test_measured_calls_that_find_nothing_need_another_threshold():
    with pytest.raises(InputError, match=r"stallscan decide"):
        CallAccuracy.counted(0, 6, 11, 11)
    with pytest.raises(InputError, match="Check both values"):
        CallAccuracy.stated(0.0, 1.0)


def test_errors_hardly_better_than_chance_tell_nothing():
    rate = correction.corrected(5, 10, CallAccuracy.counted(6, 10, 5, 10))
    assert rate.interval == (0, 1)
    assert not rate.resolvable


def test_every_interval_holds_the_truth_as_often_as_it_says():
    # The full grid is in benchmarks/rates_coverage.md.
    rng, trials, true = np.random.default_rng(0), 4000, 0.02
    called = rng.binomial(1000, true * 0.85 + (1 - true) * 0.007, trials)
    found, left = rng.binomial(71, 0.85, trials), rng.binomial(2000, 0.993, trials)
    corrected = rogan_gladen.correct(
        intervals.jeffreys(called, 1000),
        intervals.jeffreys(found, 71),
        intervals.jeffreys(2000 - left, 2000),
    )
    assert 0.93 < np.mean((corrected.low <= true) & (true <= corrected.high)) < 0.97
    assert corrected.value.mean() == pytest.approx(true, abs=5e-4)


def test_below_what_the_specificity_resolves():
    rate = correction.corrected(9, 1000, COUNTED)
    assert rate.interval.low == 0
    assert not rate.resolvable
    least = correction.resolves_from(1000, COUNTED)
    called = least * 0.843 + 0.007
    assert correction.corrected(round(1000 * called), 1000, COUNTED).resolvable
    assert not correction.corrected(round(1000 * called) - 1, 1000, COUNTED).resolvable
    # More vessels and a better specificity resolve lower rates.
    assert correction.resolves_from(5000, COUNTED) < least
    assert correction.resolves_from(1000, CallAccuracy.counted(425, 500, 9990, 10000)) < least / 2
    assert correction.resolves_from(10, CallAccuracy.counted(6, 10, 5, 10)) is None


@pytest.mark.parametrize(("stalled", "word"), [(0, "fewer"), (1000, "more")])
def test_calls_that_the_errors_rule_out_get_a_note(tmp_path, stalled, word):
    # 0 of 1,000 where 7 false calls are expected; 1,000 of 1,000 at a sensitivity of 85 %.
    mice = [(name, "wild", [(stalled, 1000 - stalled)]) for name in ("m1", "m2")]
    result = rates.rate(*write_study(tmp_path, mice), PUBLISHED)
    for unit in (*result.fields, *result.mice):
        assert f"{stalled:,} of 1,000" in unit.note
        assert word in unit.note


def test_below_zero_is_shown_as_zero_and_kept():
    rate = correction.corrected(2, 1000, COUNTED)
    assert rate.estimate == 0
    assert rate.unclipped == pytest.approx(-0.005 / 0.843)


def test_a_group_is_the_mean_of_its_mice():
    # 1 % and 5 % of unequal numbers: the mean is over mice, not over vessels.
    rate = correction.corrected_mean([1, 50], [100, 1000], PERFECT)
    assert (rate.naive, rate.stalled, rate.scored) == (pytest.approx(0.03), 51, 1100)
    assert rate.interval.high > correction.corrected(51, 1100, PERFECT).interval.high
    # Without stalls: mice with exponential rates of this mean have none in 2.5 % of trials.
    none = correction.corrected_mean([0, 0, 0], [100, 100, 100], PERFECT)
    assert none.interval.low == 0
    assert (1 + 100 * none.interval.high) ** -3 == pytest.approx(0.025)
    # For many mice with many stalls, it equals the t interval.
    values = np.random.default_rng(0).normal(0.3, 0.02, 60)
    mean = mean_of_mice(values, np.full(60, 10**6))
    expected = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert mean[1:] == pytest.approx(expected, abs=5e-5)


def test_welch_and_permutation_are_those_of_scipy():
    first, second = [0.01, 0.02, 0.015], [0.03, 0.05, 0.02, 0.04]
    difference, p = welch(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert p == pytest.approx(expected.pvalue)
    assert difference[1:] == pytest.approx(expected.confidence_interval())
    # Of the 35 ways to split seven mice, two give a difference at least as large upwards (0.02 may
    # be in either group), and p counts both sides.
    assert permutation_p(first, second) == pytest.approx(2 * 2 / 35)
    assert smallest_permutation_p(3, 4) == pytest.approx(2 / 35)


def test_the_errors_cancel_in_the_test_but_not_in_the_effect():
    stalled, scored = ([4, 6, 3], [16, 12, 20]), ([400] * 3, [400] * 3)
    comparisons = [
        correction.compare(("a", "b"), stalled, scored, errors)
        for errors in (PERFECT, PUBLISHED, COUNTED)
    ]
    assert (
        len({comparison.welch_p for comparison in comparisons})
        == len({comparison.permutation_p for comparison in comparisons})
        == 1
    )
    assert comparisons[1].difference == pytest.approx(comparisons[0].difference / 0.843)
    # The sampling error of the accuracy widens the interval. It excludes 0 exactly if p < 0.05.
    widths = [comparison.interval.high - comparison.interval.low for comparison in comparisons]
    assert widths[0] < widths[1] < widths[2]
    for comparison in comparisons:
        assert (comparison.interval.low > 0) == (comparison.welch_p < 0.05)


MICE_COUNTS = st.lists(
    st.integers(1, 2000).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))),
    min_size=2,
    max_size=9,
)
ERRORS = st.sampled_from([PERFECT, PUBLISHED, COUNTED, CallAccuracy.counted(6, 10, 18, 20)])


def contains(outer, inner):
    return outer.low <= inner.low + 1e-12 and inner.high <= outer.high + 1e-12


def test_mice_that_agree_do_not_make_their_mean_certain():
    rate = correction.corrected_mean([10, 10, 11], [1000] * 3, PERFECT)
    pooled = correction.corrected(31, 3000, PERFECT)
    assert contains(rate.interval, pooled.interval)
    assert contains(rate.naive_interval, pooled.naive_interval)
    assert rate.interval.high - rate.interval.low == pytest.approx(0.0074, abs=3e-4)


@settings(max_examples=50, deadline=None)
@given(MICE_COUNTS, ERRORS)
def test_a_group_is_never_narrower_than_independent_vessels(mice, errors):
    stalled, scored = zip(*mice, strict=True)
    rate = correction.corrected_mean(stalled, scored, errors)
    pooled = correction.corrected(sum(stalled), sum(scored), errors)
    assert contains(rate.interval, pooled.interval)
    assert contains(rate.naive_interval, pooled.naive_interval)
    assert rate.interval.low <= rate.estimate <= rate.interval.high
    assert rate.resolvable == (rate.interval.low > 0)


@settings(max_examples=50, deadline=None)
@given(MICE_COUNTS, MICE_COUNTS, ERRORS)
def test_a_difference_is_never_narrower_than_that_of_independent_vessels(first, second, errors):
    stalled, scored = zip(*(zip(*mice, strict=True) for mice in (first, second)), strict=True)
    seen = tuple(np.divide(*counts) for counts in zip(stalled, scored, strict=True))
    corrected, p_value = corrected_difference_of_mice(
        seen, scored, errors.sensitivity_share, errors.false_stalled
    )
    one, two = (
        intervals.jeffreys(sum(part), sum(all_)) for part, all_ in zip(stalled, scored, strict=True)
    )
    difference = two.value - one.value
    ends = Share(
        difference,
        difference - np.hypot(two.value - two.low, one.high - one.value),
        difference + np.hypot(two.high - two.value, one.value - one.low),
    )
    assert contains(
        corrected,
        rogan_gladen.correct_difference(ends, errors.sensitivity_share, errors.false_stalled),
    )
    assert corrected.low <= corrected.value <= corrected.high
    assert (corrected.low > 0 or corrected.high < 0) == (p_value < 0.05) or errors.stalled == 10
    of_welch = welch(*seen)
    if np.isfinite(of_welch[0].low):
        assert p_value >= of_welch[1]


@pytest.mark.parametrize("mice", [2, 3, 5, 8])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_group_intervals_hold_the_truth(mice, spread):
    # The full grid is in benchmarks/rates_coverage.md: at least 94 %.
    rng, trials, true = np.random.default_rng(0), 2000, 0.02
    called = 0.007 + 0.843 * power.draw_mice(rng, true, spread, (trials, mice))
    scored = np.resize([1000, 300, 700], mice)
    seen = rng.binomial(scored, called) / scored
    found = intervals.jeffreys(rng.binomial(71, 0.85, trials), 71)
    false = intervals.jeffreys(rng.binomial(2000, 0.007, trials), 2000)
    mean = corrected_mean_of_mice(seen, scored, found, false)
    assert np.mean((mean.low <= true) & (true <= mean.high)) > 0.93


def test_mice_that_do_not_differ_are_tested_as_vessels():
    alike = correction.compare(("a", "b"), ([10] * 3, [20] * 3), ([1000] * 3,) * 2, PERFECT)
    assert "independent" in alike.note
    assert 0.001 < alike.welch_p < 0.02
    assert alike.interval.low > 0
    none = correction.compare(("a", "b"), ([0] * 3, [0] * 3), ([1000] * 3,) * 2, PERFECT)
    assert none.welch_p == none.permutation_p == 1
    assert none.interval.low < 0 < none.interval.high


def test_swapped_groups_give_the_mirror_image():
    stalled, scored = ([4, 6, 3], [16, 12, 20]), ([400] * 3, [400] * 3)
    forward = correction.compare(("a", "b"), stalled, scored, COUNTED)
    backward = correction.compare(("b", "a"), stalled[::-1], scored, COUNTED)
    assert backward.interval == pytest.approx((-forward.interval.high, -forward.interval.low))
    assert (backward.welch_p, backward.permutation_p) == pytest.approx(
        (forward.welch_p, forward.permutation_p)
    )


def test_a_study(tmp_path):
    result = rates.rate(*write_study(tmp_path, MICE), COUNTED)
    assert [unit.field for unit in result.fields[:3]] == ["m1-0", "m1-1", "m2-0"]
    assert [(unit.mouse, unit.group) for unit in result.mice][3] == ("m4", "model")
    assert [(u.rate.stalled, u.rate.scored) for u in result.mice][:2] == [(4, 400), (5, 400)]
    wild, model = result.groups
    assert (wild.group, wild.mice, wild.rate.stalled, wild.rate.scored) == ("wild", 3, 12, 1200)
    assert wild.rate.unclipped == pytest.approx((0.01 - 0.007) / 0.843)
    assert not wild.rate.resolvable
    assert "99.3 % (measured on 2,000 flowing recordings)" in wild.note
    assert model.rate.resolvable
    assert model.note == ""
    (comparison,) = result.comparisons
    assert (comparison.first, comparison.second, comparison.mice) == ("wild", "model", (3, 3))
    assert comparison.difference == pytest.approx((0.04 - 0.01) / 0.843)
    assert "p = 0.1" in comparison.note
    (swapped,) = rates.rate(
        tmp_path / "predictions.csv", tmp_path / "groups.csv", COUNTED, reference="model"
    ).comparisons
    assert swapped.difference == pytest.approx(-comparison.difference)


def test_tables_are_written_and_shown(tmp_path):
    result = rates.rate(*write_study(tmp_path, MICE), COUNTED)
    paths = tables.write_rates(result, tmp_path / "new" / "out")
    names = ["rates_fields.csv", "rates_mice.csv", "rates_groups.csv", "comparison.csv"]
    assert [path.name for path in paths] == names
    read = [pd.read_csv(path) for path in paths]
    assert [len(table) for table in read] == [12, 6, 2, 1]
    assert read[1]["rate"].tolist() == [unit.rate.estimate for unit in result.mice]
    assert read[3].loc[0, "welch_p"] == result.comparisons[0].welch_p
    console = Console(width=120, file=io.StringIO())
    for table in tables.as_tables(result):
        console.print(table)
    text = console.file.getvalue()
    assert "model minus wild" in text
    assert "+3.56 points" in text
    assert "* not" in text


def test_every_recording_is_accounted_for(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    table = read_predictions(calls)
    table.loc[0, "call"] = "review"
    table.loc[1, ["status", "call"]] = ["damaged", "unscorable"]
    extra = pd.concat([table.iloc[[5]].assign(filename=f"stranger{n}.mp4") for n in (1, 2)])
    pd.concat([table.iloc[:-1], extra]).to_csv(calls, index=False)
    result = rates.rate(calls, groups, COUNTED)
    first = result.mice[0]
    assert (first.review, first.unscorable, first.rate.scored) == (1, 1, 398)
    assert result.without_group == Excluded(2, ("stranger1.mp4", "stranger2.mp4"))
    assert result.without_call == Excluded(1, (table["filename"].iloc[-1],))
    text = " ".join(result.sentences())
    assert re.search(r"2 recordings .*: stranger1\.mp4, stranger2\.mp4", text)
    assert re.search(rf"1 recordings .*: {table['filename'].iloc[-1]}", text)


def test_recordings_left_to_a_person_are_missed_in_the_rate(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    table = read_predictions(calls)
    table.loc[table["filename"].str.match(r"m1-0-\d\d?\."), "call"] = "review"
    table.loc[table["filename"].isin(["m2-0-1.mp4", "m4-0-50.mp4"]), "call"] = "review"
    table.to_csv(calls, index=False)
    result = rates.rate(calls, groups, COUNTED)
    said = " ".join(result.sentences())
    assert "Group wild: " in said
    assert "101 of 1,200 recordings are left out because they are called review" in said
    assert "Group model: " not in said
    frames = tables.as_frames(result)
    for name, noted in (("rates_mice.csv", ["m1"]), ("rates_fields.csv", ["m1-0"])):
        has_note = frames[name]["note"].str.contains("called review")
        assert frames[name].loc[has_note].iloc[:, 0].tolist() == noted
    # Answered ones count, and are left out no more.
    answers = dict.fromkeys(table["filename"][table["call"] == "review"], "flowing")
    answered = rates.rate(calls, groups, COUNTED, answers=answers)
    assert "called review" not in " ".join(answered.sentences())


@pytest.mark.parametrize(
    ("left_out", "said"), [((40, 20), "too low"), ((0, 900), "too high"), ((5, 20), ""), (None, "")]
)
def test_labels_tell_which_recordings_are_without_a_call(tmp_path, left_out, said):
    rows = {
        "without_call_by_label": dict(zip(("stalled", "flowing"), left_out or (), strict=False))
    }
    path = write_metrics(tmp_path, rows=rows if left_out else {})
    errors = CallAccuracy.read(path)
    calls, groups = write_study(tmp_path, MICE)
    table = read_predictions(calls)
    # Nothing is left out here.
    assert "In the evaluation" not in " ".join(rates.rate(calls, groups, errors).sentences())
    table.loc[0, "call"] = "review"
    table.to_csv(calls, index=False)
    sentences = " ".join(rates.rate(calls, groups, errors).sentences())
    assert ("In the evaluation" in sentences) == bool(said)
    assert said in sentences


def test_an_impossible_rate_has_no_certain_interval(tmp_path):
    # None of 2,000 where 14 false calls are expected; the other group is as it should be.
    mice = [(name, "wild", [(0, 1000)]) for name in ("m1", "m2")] + MICE[3:]
    result = rates.rate(*write_study(tmp_path, mice), PUBLISHED)
    wild, model = result.groups
    assert (wild.rate.interval, wild.rate.stated_interval) == (Interval(0, 0), None)
    assert model.rate.stated_interval == model.rate.interval
    assert tables.headlines(result)[0].startswith("wild: no rate")
    assert "0 to 0 %" not in " ".join(tables.headlines(result))
    groups = tables.as_frames(result)["rates_groups.csv"]
    assert groups[["low", "high"]].isna().all(axis=1).tolist() == [True, False]
    assert groups["rate_unclipped"][0] == pytest.approx(-0.007 / 0.843)
    assert tables.sheets(result)[0].rows[0][-1] == "none"
    alone = rates.rate(*write_study(tmp_path, mice[:1]), PUBLISHED)
    assert tables.headlines(alone)[0].startswith("no rate")


def test_a_group_with_one_mouse_is_given_and_not_tested(tmp_path):
    result = rates.rate(*write_study(tmp_path, MICE[:4]), COUNTED)
    model = result.groups[1]
    assert model.rate.estimate == pytest.approx(0.033 / 0.843)
    assert model.rate.interval is None
    assert "one mouse" in model.note
    (comparison,) = result.comparisons
    assert comparison.interval is comparison.welch_p is comparison.permutation_p is None
    assert "model has one mouse" in comparison.note
    assert tables.write_rates(result, tmp_path / "out")


def test_a_mouse_that_was_not_scored_is_left_out_of_its_group(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    table = read_predictions(calls)
    table.loc[table["filename"].str.startswith("m1-"), "call"] = "review"
    table.to_csv(calls, index=False)
    result = rates.rate(calls, groups, COUNTED)
    assert result.mice[0].rate is None
    assert (result.groups[0].mice, result.groups[0].review) == (2, 400)
    assert any(": m1" in sentence for sentence in result.sentences())
    assert tables.write_rates(result, tmp_path / "out")
    assert tables.as_tables(result)


def test_without_groups_and_without_mice(tmp_path):
    calls, groups = write_study(tmp_path, MICE, columns=("mouse",))
    result = rates.rate(calls, groups, COUNTED)
    assert [(unit.group, unit.mice) for unit in result.groups] == [("all", 6)]
    assert result.fields == result.comparisons == ()
    calls, groups = write_study(tmp_path, MICE, columns=("field", "group"))
    result = rates.rate(calls, groups, COUNTED)
    assert result.mice == result.comparisons == ()
    assert result.groups[1].rate.scored == 1200
    assert "1,200 recordings" in result.groups[1].note
    assert len(tables.as_tables(result)) == 2


def test_three_groups_say_how_many_tests_there_are(tmp_path):
    third = [(name.replace("m", "t"), "treated", fields) for name, _, fields in MICE[:3]]
    result = rates.rate(*write_study(tmp_path, MICE + third), COUNTED)
    assert [comparison.second for comparison in result.comparisons] == ["model", "treated"]
    assert any("by 2 (Bonferroni)" in sentence for sentence in result.sentences())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,mouse\n", "row for each recording"),
        ("filename,note\na.mp4,x\n", "animal, subject, project_id, project"),
        ("mouse,group\nm1,a\n", "column filename "),
        ("filename,mouse\na.mp4,m1\na.mp4,m2\n", r"line 2 \(a.mp4\), line 3 \(a.mp4\)"),
        ("filename,mouse\na.mp4,\n", r"mouse .*line 2 \(a.mp4\)"),
        ("filename,mouse,group\na,m1,x\nb,m1,y\n", "same mouse .*group: m1 in x, y"),
        ("filename,field,mouse\na,1,m1\nb,1,m2\n", "same field .*mouse: 1 in m1, m2"),
        ("filename,field,group\na,1,x\nb,1,y\n", "same field .*group: 1 in x, y"),
        ('filename,mouse\n"a,m1\n', "CSV"),
        ("", "empty"),
    ],
)
def test_wrong_groups_tables(tmp_path, text, message):
    path = tmp_path / "groups.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"groups\.csv: .*{message}"):
        groups_table.read_groups(path)


def test_missing_groups_table(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: .*filename.*field, mouse and group"):
        groups_table.read_groups(tmp_path / "none.csv")


def test_tables_that_do_not_fit(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    with pytest.raises(InputError, match=r"group control .*wild, model with --reference"):
        rates.rate(calls, groups, COUNTED, reference="control")
    # Groups are not compared without mice, but a wrong name is as wrong.
    pd.read_csv(groups).drop(columns="mouse").to_csv(groups, index=False)
    with pytest.raises(InputError, match=r"group control .*wild, model with --reference"):
        rates.rate(calls, groups, COUNTED, reference="control")
    others = write_calls(tmp_path, [("x.mp4", "flowing")])
    with pytest.raises(InputError, match=r"predictions\.csv and .*groups\.csv"):
        rates.rate(others, groups, COUNTED)
    open_ = write_calls(tmp_path, [("m1-0-0.mp4", "review")])
    with pytest.raises(InputError, match=r"predictions\.csv: .* 1 recordings .*1 review"):
        rates.rate(open_, groups, COUNTED)


def write_metrics(folder, **changes):
    cells = Confusion(425, 14, 1986, 75)
    content = {
        "metrics": {"confusion": cells._asdict()},
        "bundles": ["default 0123"],
        "thresholds": [0.5],
    } | changes
    path = folder / "metrics.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_errors_are_read_from_an_evaluation(tmp_path):
    errors = CallAccuracy.read(write_metrics(tmp_path))
    assert (errors.sensitivity, errors.specificity) == (0.85, 0.993)
    assert (errors.stalled, errors.flowing) == (500, 2000)
    assert str(errors) == (
        "sensitivity 85 % (measured on 500 stalled recordings), "
        "specificity 99.3 % (measured on 2,000 flowing recordings)"
    )
    assert rates.rate(*write_study(tmp_path, MICE), errors).errors == errors


def test_errors_of_what_evaluate_writes(tmp_path):
    calls, _ = write_study(tmp_path, MICE)
    labels = tmp_path / "labels.csv"
    table = read_predictions(calls)
    table.assign(stalled=(table["call"] == "stalled").astype(int)).to_csv(labels, index=False)
    path = present.write_metrics(evaluate.evaluate(calls, labels), tmp_path / "out")
    errors = CallAccuracy.read(path)
    assert (errors.stalled, errors.flowing, errors.sensitivity) == (60, 2340, 1.0)
    assert (errors.bundles, errors.thresholds) == (("default 0123",), (0.5,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundles": ["other 4567"]}, "bundle default 0123"),
        ({"thresholds": [0.9]}, "threshold 0.5"),
    ],
)
def test_errors_of_other_calls_are_refused(tmp_path, changes, message):
    errors = CallAccuracy.read(write_metrics(tmp_path, **changes))
    with pytest.raises(InputError, match=rf"predictions\.csv: .*{message},.*--sensitivity"):
        rates.rate(*write_study(tmp_path, MICE), errors)


def test_an_accuracy_measured_on_few_mice_is_less_certain(tmp_path):
    drawn = {"column": "mouse", "count": 4}
    plain = CallAccuracy.read(write_metrics(tmp_path))
    effective = {"stalled": 100.0, "flowing": 400.0}
    path = write_metrics(tmp_path, drawn_by=drawn | {"effective": effective})
    grouped = CallAccuracy.read(path)
    share = grouped.sensitivity_share
    assert share == pytest.approx(intervals.jeffreys(85, 100))
    assert grouped.false_stalled == pytest.approx(intervals.jeffreys(2.8, 400))
    calls, groups = write_study(tmp_path, MICE)
    before, after = (rates.rate(calls, groups, errors) for errors in (plain, grouped))
    for old, new in zip(before.groups, after.groups, strict=True):
        assert old.rate.estimate == pytest.approx(new.rate.estimate)
        assert contains(new.rate.interval, old.rate.interval)
        assert new.rate.interval != old.rate.interval
    said = " ".join(after.sentences())
    assert "500 stalled and 2,000 flowing ones count as 100 and 400" in said
    # An older version did not tell; without mice there is nothing to tell.
    older = CallAccuracy.read(write_metrics(tmp_path, drawn_by=drawn))
    assert "too narrow" in " ".join(rates.rate(calls, groups, older).sentences())
    alone = CallAccuracy.read(write_metrics(tmp_path, drawn_by={"column": "", "effective": None}))
    assert "independent" not in " ".join(rates.rate(calls, groups, alone).sentences())
    assert alone == plain


CALIBRATED = {"before": 0.4, "calibration": {"scale": 0.5, "bias": 1.0}, "at": 0.1, "to": 0.02}
CONVERTED = {"before": 0.4, "calibration": None, "at": 0.4, "to": 0.02}


@pytest.mark.parametrize(
    ("measured", "now", "message"),
    [
        ({"prevalence": 0.4}, {"prevalence": 0.02}, "another expected share of stalls"),
        (
            {"prevalence": 0.02},
            {"prevalence": 0.02, "decision": {"steps": [CALIBRATED]}},
            "another calibration",
        ),
        (
            {"decision": {"low": 0.1}},
            {"decision": {"low": None}, "consistency": True},
            "another lower limit and another choice of --consistency",
        ),
        # The same scores, converted to a prevalence by 'predict' or by 'decide'.
        (
            {"prevalence": 0.02},
            {"prevalence": 0.02, "decision": {"low": None, "steps": [CONVERTED]}},
            "",
        ),
        (
            {"prevalence": 0.02, "decision": {"steps": [CALIBRATED]}},
            {"prevalence": 0.02, "decision": {"steps": [CALIBRATED], "chosen_on": 3}},
            "",
        ),
        # Nothing is known of a table without its run.
        ({"prevalence": 0.4}, {}, ""),
        ({}, {"prevalence": 0.4}, ""),
        ({"prevalence": None, "consistency": False}, {"prevalence": 0.4}, ""),
    ],
)
def test_calls_that_were_made_in_another_way_are_refused(tmp_path, measured, now, message):
    calls, groups = write_study(tmp_path, MICE)
    table = read_predictions(calls)
    labels = tmp_path / "labels.csv"
    table.assign(stalled=(table["call"] == "stalled").astype(int)).to_csv(labels, index=False)
    run = tmp_path / "run.json"
    run.write_text(json.dumps(measured))
    path = present.write_metrics(evaluate.evaluate(calls, labels), tmp_path / "out")
    errors = CallAccuracy.read(path)
    assert rates.rate(calls, groups, errors).errors == errors
    run.write_text(json.dumps(now))
    if message:
        with pytest.raises(InputError, match=rf"predictions\.csv: .*{message}\..*--sensitivity"):
            rates.rate(calls, groups, errors)
    else:
        assert rates.rate(calls, groups, errors)
    # As an older version wrote it.
    content = json.loads(path.read_text())
    del content["made_by"], content["rows"]["without_call_by_label"]
    path.write_text(json.dumps(content))
    assert rates.rate(calls, groups, CallAccuracy.read(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CallAccuracy.counted(0, 0, 5, 5), "labelled stalled"),
        (lambda: CallAccuracy.counted(5, 5, 0, 0), "labelled flowing"),
        (lambda: CallAccuracy.counted(6, 5, 5, 5), "6 correct calls of 5"),
        (lambda: CallAccuracy.counted(1, 2, 1, 2), "50 %.*chance"),
        (lambda: CallAccuracy.stated(85, 99.3), r"sensitivity is 85\. .*0\.993"),
        (lambda: CallAccuracy.stated(0.9, math.nan), "specificity is nan"),
        (lambda: CallAccuracy.stated(0.3, 0.7), "30 %.*70 %.*chance"),
        (lambda: correction.corrected(0, 0, PERFECT), "0 of 0"),
        (lambda: correction.corrected(3, 2, PERFECT), "3 of 2"),
        (lambda: power.mice_needed(PERFECT, low=0), "rates of 0 and 0.02"),
        (lambda: power.mice_needed(PERFECT, vessels=0), "0 vessels"),
        (lambda: power.mice_needed(PERFECT, spread=math.nan), "spread of nan"),
        (lambda: power.mice_needed(PERFECT, spread=20), r"spread of 20 .*0\.4 %"),
    ],
)
def test_impossible_numbers(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metrics": {"confusion": {"a": 1}}}'])
def test_other_files_are_refused_as_evaluations(tmp_path, text):
    path = tmp_path / "metrics.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics\.json: .*stallscan evaluate"):
        CallAccuracy.read(path)
    with pytest.raises(InputError, match=r"none\.json: .*stallscan evaluate"):
        CallAccuracy.read(tmp_path / "none.json")


def test_an_evaluation_without_stalls_is_named(tmp_path):
    cells = Confusion(0, 14, 1986, 0)._asdict()
    path = write_metrics(tmp_path, metrics={"confusion": cells})
    with pytest.raises(InputError, match=r"metrics\.json: .*labelled stalled"):
        CallAccuracy.read(path)


def test_wrong_tables_are_table_errors(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("filename,mouse,group\na,m1,x\nb,m1,y\n", encoding="utf-8")
    with pytest.raises(TableError):
        groups_table.read_groups(path)


def test_power_is_that_of_the_formula_where_counts_are_large():
    # Mice differ much less than the groups, and there are so many vessels that the counting error
    # is negligible, so statsmodels' formula for two samples with a common spread holds.
    formula = pytest.importorskip("statsmodels.stats.power")
    result = power.mice_needed(PERFECT, low=0.30, high=0.36, vessels=10**6, spread=0.15)
    size = 0.06 / (0.15 * math.sqrt((0.30**2 + 0.36**2) / 2))
    expected = formula.TTestIndPower().solve_power(size, alpha=0.05, power=0.8)
    assert result.mice == pytest.approx(expected, abs=1.5)


def test_power_can_be_read():
    mine, perfect, published = power.compare_scorings(COUNTED, vessels=200)
    assert perfect.mice < published.mice
    assert mine.mice == published.mice
    assert (published.mice, published.vessels) == (12, 200)
    assert published.measured == pytest.approx((0.0104, 0.0239), abs=5e-5)
    hopeless = power.mice_needed(PUBLISHED, low=0.02, high=0.0201)
    assert hopeless.mice is None
    console = Console(width=120, file=io.StringIO())
    console.print(power.as_table([mine, perfect, published, hopeless]))
    text = " ".join(console.file.getvalue().split())
    for words in ("0.4 % against 2 %", "80 %", "200 vessels", "85 % / 99.3 %", "more than 100"):
        assert words in text
    assert "1.04 % against 2.39 %" in text


@given(st.integers(0, 1000), st.integers(0, 5000))
def test_a_portion_is_exact(permille, count):
    assert intervals.portion(permille / 1000, count) == Fraction(permille * count, 1000)


def test_drawn_mice_have_the_spread():
    drawn = power.draw_mice(np.random.default_rng(0), 0.02, 0.5, (20000,))
    assert drawn.mean() == pytest.approx(0.02, rel=0.02)
    assert drawn.std() == pytest.approx(0.01, rel=0.03)
    assert set(power.draw_mice(np.random.default_rng(0), 0.02, 0, (5,))) == {0.02}


def test_mice_may_go_by_other_names(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    table = pd.read_csv(groups).rename(columns={"mouse": "animal"})
    table.to_csv(groups, index=False)
    assert [unit.mouse for unit in rates.rate(calls, groups, COUNTED).mice][:2] == ["m1", "m2"]


@pytest.mark.parametrize(
    ("errors", "run", "said"),
    [
        (COUNTED, {"simulated_training": True}, "recordings like the labelled ones"),
        (PUBLISHED, {"simulated_training": True}, "may not hold"),
        (replace(COUNTED, simulated=True), {}, "correct only those"),
        (PUBLISHED, {"simulated_training": False}, ""),
        (PUBLISHED, None, ""),
    ],
)
def test_rates_say_what_simulated_recordings_do_not_tell(tmp_path, errors, run, said):
    calls, groups = write_study(tmp_path, MICE)
    if run is not None:
        (tmp_path / "run.json").write_text(json.dumps(run))
    sentences = " ".join(rates.rate(calls, groups, errors).sentences())
    assert said in sentences
    assert ("simulated" in sentences) == bool(said)


def test_accuracy_on_recordings_that_chose_the_threshold_is_refused(tmp_path):
    rows = [("a.mp4", 1, 0.9, "stalled", 0.5), ("b.mp4", 0, 0.1, "flowing", 0.5)]
    columns = ["filename", "stalled", "score", "call", "threshold"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "validation.csv", index=False)
    evaluation = evaluate.evaluate(tmp_path / "validation.csv")
    path = present.write_metrics(evaluation, tmp_path)
    with pytest.raises(InputError, match=r"metrics\.json: .*too good.* Evaluate"):
        CallAccuracy.read(path)


def test_a_groups_table_as_a_spreadsheet_leaves_it(tmp_path, caplog):
    caplog.set_level(logging.INFO, "stallscan")
    calls, plain = write_study(tmp_path, MICE, ("mouse", "group"))
    table = pd.read_csv(plain).rename(
        columns={"filename": "File name", "mouse": "Mouse ID", "group": "Genotype"}
    )
    table["File name"] = "D:\\study\\" + table["File name"].str.removesuffix(".mp4")
    path = tmp_path / "saved.csv"
    table.to_csv(path, index=False, sep=";", encoding="utf-16")
    saved, expected = (rates.rate(calls, each, PUBLISHED) for each in (path, plain))
    assert (saved.mice, saved.groups) == (expected.mice, expected.groups)
    said = next(line for line in caplog.messages if line.startswith(f"{path}: "))
    for part in ("2,400 recordings", "6 mice", "'mouse id'", "'genotype'", "separator ;"):
        assert part in said


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.000755, 1.0, "0.1 to 100 %"),
        (0.0085, 0.0413, "0.85 to 4.13 %"),
        (0.0, 0.0003, "0 to 0.03 %"),
        (-0.01, 0.2, "-1 to 20 %"),
    ],
)
def test_an_interval_has_the_digits_that_its_width_allows(low, high, told):
    assert tables._percent_range(Interval(low, high)) == told
