"""Rates after a review against hand-worked numbers and simulated reviews."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from stallscan.rates import correction, rates, reviewed, rogan_gladen, tables
from stallscan.rates.correction import PUBLISHED, CallAccuracy
from stallscan.rates.mice import (
    corrected_difference_of_mice,
    corrected_mean_of_mice,
    difference_of_corrected_means,
    level,
)
from stallscan.rates.reviewed import Tally
from stallscan.scores import intervals
from stallscan.scores.intervals import exactly
from tests.rates.test_rates import MICE, contains, write_study

COUNTED = CallAccuracy.counted(425, 500, 1986, 2000)  # 85 % and 99.3 %
# 1,000 recordings of which 20 are stalled: 17 found, 3 missed, and 7 false calls.
CALLED, FALSE, MISSED = 24, 7, 3
SIZES = ((0, 2000), (1, 200), (2, 200))  # number and vessels of mice


def reviewing(stalls, found, missed=0, flows=0):
    """Return the tally after a review of so many calls of each kind, with the wrong ones found."""
    return Tally(
        stalled=CALLED - found + missed,
        scored=1000,
        called_stalled=CALLED,
        called_flowing=1000 - CALLED,
        unseen_stalled=CALLED - stalls,
        unseen_flowing=1000 - CALLED - flows,
        false_stalled=found,
        missed=missed,
    )


def rate_after(errors, tally):
    return correction.corrected(tally.stalled, tally.scored, reviewed.after(errors, tally))


def test_without_a_review_nothing_changes():
    assert reviewed.after(COUNTED, reviewing(0, 0)) is COUNTED


def test_a_full_review_needs_no_correction():
    rate = rate_after(COUNTED, reviewing(CALLED, FALSE, MISSED, 1000 - CALLED))
    assert rate.unclipped == 0.02
    assert rate.interval == pytest.approx(intervals.jeffreys(20, 1000)[1:])


def test_reviewed_stalls_leave_only_missed_ones():
    # All suspected stalls were reviewed: 17 are real, and those are 85 % of all.
    rate = rate_after(PUBLISHED, reviewing(CALLED, FALSE))
    assert rate.unclipped == pytest.approx(0.017 / 0.85)
    # A missed stall that was found by chance is not counted again.
    again = rate_after(PUBLISHED, reviewing(CALLED, FALSE, missed=1, flows=300))
    assert again.unclipped == pytest.approx(0.017 / 0.85)


@pytest.mark.parametrize(("stalls", "found"), [(1, 1), (10, 1), (10, 4), (20, 6)])
def test_a_partial_review_of_any_order_keeps_the_estimate(stalls, found):
    # What was found wrong is among the wrong calls that were expected.
    before = rate_after(PUBLISHED, reviewing(0, 0))
    after = rate_after(PUBLISHED, reviewing(stalls, found))
    assert after.unclipped == pytest.approx(before.unclipped, rel=1e-6)


def test_confirmed_stalls_are_not_taken_for_false_calls():
    # 7 of 9 calls are expected to be false, but 8 of them are confirmed.
    calls = Tally(9, 1000, 9, 991, 9, 991, 0, 0)
    assert rate_after(PUBLISHED, calls).unclipped == pytest.approx(0.002 / 0.843)
    confirmed = calls._replace(unseen_stalled=1)
    rate = rate_after(PUBLISHED, confirmed)
    # At least one is missed for every six that are found.
    assert rate.unclipped == pytest.approx(0.008 / 0.85, rel=1e-3)
    assert rate.interval.low > 0.003


def test_recordings_left_to_a_person_have_no_wrong_calls():
    # 30 recordings without a call of the model were answered: 10 are stalled.
    tally = reviewing(CALLED, FALSE)._replace(stalled=CALLED - FALSE + 10, scored=1030)
    assert rate_after(PUBLISHED, tally).unclipped == pytest.approx((20 + 10) / 1030)


def test_more_wrong_calls_than_there_should_be_are_a_surprise():
    assert list(reviewed.surprises(COUNTED, reviewing(CALLED, FALSE, MISSED, 500))) == []
    ((kind, found, expected),) = reviewed.surprises(COUNTED, reviewing(CALLED, 22))
    assert (kind, found) == ("false stalls", 22)
    assert expected == pytest.approx(7, abs=0.1)
    ((kind, found, _),) = reviewed.surprises(COUNTED, reviewing(CALLED, FALSE, 30, 500))
    assert (kind, found) == ("missed stalls", 30)


# Which recordings are reviewed, given scores above 0 for stalls, (trials, N).
REVIEWS = {
    "suspected": lambda score, rng: score >= 0,
    "highest": lambda score, rng: (-score).argsort(1).argsort(1) < 12,
    "uncertain": lambda score, rng: np.abs(score).argsort(1).argsort(1) < 50,
    "random": lambda score, rng: rng.random(score.shape) < 0.5,
    "all": lambda score, rng: score > -np.inf,
}


@pytest.mark.parametrize("order", REVIEWS)
def test_intervals_hold_the_truth_for_any_order(order):
    # The full grid is in benchmarks/rates_review.md.
    rng, trials, true = np.random.default_rng(0), 400, 0.02
    stalled = rng.random((trials, 1000)) < true
    score = rng.normal(size=stalled.shape) + np.where(stalled, norm.ppf(0.85), norm.ppf(0.007))
    seen, called = REVIEWS[order](score, rng), score >= 0
    final = np.where(seen, stalled, called)
    parts = (final, called | ~called, called, ~called, called & ~seen, ~called & ~seen)
    wrong = called & seen & ~stalled, ~called & seen & stalled
    tally = Tally(*(part.sum(1) for part in (*parts, *wrong)))
    sensitivity = intervals.jeffreys(rng.binomial(71, 0.85, trials), 71)
    false = intervals.jeffreys(rng.binomial(2000, 0.007, trials), 2000)
    after = reviewed.remaining(sensitivity, false, tally)
    rate = rogan_gladen.correct(intervals.jeffreys(tally.stalled, 1000), *after)
    assert np.mean((rate.low <= true) & (true <= rate.high)) > 0.92
    assert rate.value.mean() == pytest.approx(true, abs=0.0015)
    # Reviews of suspected stalls and of everything make rates more precise.
    if order in ("suspected", "all"):
        before = rogan_gladen.correct(intervals.jeffreys(called.sum(1), 1000), sensitivity, false)
        assert np.median(rate.high - rate.low) < np.median(before.high - before.low)


def test_equal_accuracies_give_nearly_the_difference_of_before():
    shares = np.array([0.01, 0.02, 0.015]), np.array([0.04, 0.06, 0.05])
    scored = np.full(3, 400.0), np.full(3, 400.0)
    pair = COUNTED.sensitivity_share, COUNTED.false_stalled
    apart, p = difference_of_corrected_means(shares, scored, (pair, pair))
    together, p_together = corrected_difference_of_mice(shares, scored, *pair)
    assert apart.value == pytest.approx(together.value)
    assert contains(apart, together._replace(high=apart.high))
    assert p >= p_together
    assert (p < 0.05) == (apart.low > 0)


@pytest.mark.parametrize("exact", [True, False])
def test_p_and_interval_agree(exact):
    rng = np.random.default_rng(1)
    scored = np.full((300, 4), 300.0), np.full((300, 4), 300.0)
    shares = tuple(
        rng.binomial(300, rng.choice([0.01, 0.03, 0.05], (300, 1)), (300, 4)) / 300
        for _ in range(2)
    )
    accuracies = (
        (exactly(1.0), exactly(0.0)),
        (exactly(0.85), exactly(0.007))
        if exact
        else (COUNTED.sensitivity_share, COUNTED.false_stalled),
    )
    difference, p = difference_of_corrected_means(shares, scored, accuracies)
    excludes = (difference.low > 0) | (difference.high < 0)
    assert (excludes == (p < 0.05)).all()
    assert excludes.any()
    assert not excludes.all()
    assert (difference.low <= difference.value).all()
    assert (difference.value <= difference.high).all()


def test_mice_that_were_reviewed_in_one_group_only_do_not_look_different():
    # Every mouse has about 7 false calls of 1,000 and no stall; those of one group were corrected.
    stalled, scored = ([0] * 4, [6, 7, 7, 8]), ([1000] * 4, [1000] * 4)
    full = reviewed.after(COUNTED, Tally(0, 4000, 28, 3972, 0, 0, 28, 0))
    naive = correction.compare(("a", "b"), stalled, scored, COUNTED)
    assert naive.welch_p < 0.05
    fair = correction.compare(("a", "b"), stalled, scored, (full, COUNTED))
    assert fair.welch_p > 0.5
    assert fair.interval.low < 0 < fair.interval.high


def test_a_study_with_answers(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    table = pd.read_csv(calls)
    stalled = table.loc[table["call"] == "stalled", "filename"]
    # Every suspected stall of the first group is false, and all others are confirmed.
    wild = stalled.str[:2].isin(["m1", "m2", "m3"])
    answers = {
        name: "flowing" if false else "stalled" for name, false in zip(stalled, wild, strict=True)
    }
    answers["m1-0-99.mp4"] = "unscorable"
    result = rates.rate(calls, groups, COUNTED, answers=answers)
    first, second = result.groups
    assert (first.rate.stalled, first.known, first.unscorable) == (0, 12, 1)
    assert (second.rate.stalled, second.known) == (48, 48)
    assert second.rate.unclipped == pytest.approx(0.04 / 0.85)
    assert result.mice[0].rate.scored == 399
    (comparison,) = result.comparisons
    assert comparison.difference == pytest.approx(0.04 / 0.85)
    assert comparison.welch_p < 0.05
    said = " ".join(result.sentences())
    assert "61 of 2,400 recordings were answered" in said
    assert "13 calls overturned, 48 confirmed" in said
    assert "Corrected for" in said
    # The false stalls alone are more than expected of the first group, not of the whole study.
    assert "evaluate on a random sample" not in said
    frames = tables.as_frames(result)
    assert frames["rates_groups.csv"]["known"].tolist() == [12, 48]


# Mice with unequal numbers of vessels in which every call of stalled is false: 1 % of each.
UNEQUAL = [
    *((f"a{number}", "young", [(size // 100, size - size // 100)]) for number, size in SIZES),
    *((f"b{number}", "old", [(size // 100, size - size // 100)]) for number, size in SIZES),
]


@pytest.mark.parametrize("reviewed_mice", [["a0"], ["a1", "a2"], ["a0", "a1", "a2"]])
def test_each_mouse_has_the_same_weight_in_what_remains(tmp_path, reviewed_mice):
    calls, groups = write_study(tmp_path, UNEQUAL)
    errors = CallAccuracy.stated(0.85, 0.99)
    names = pd.read_csv(calls)["filename"]
    answers = dict.fromkeys(names[names.str[:2].isin(reviewed_mice)], "flowing")
    result = rates.rate(calls, groups, errors, answers=answers)
    assert [mouse.rate.unclipped for mouse in result.mice] == pytest.approx([0.0] * 6, abs=1e-9)
    first, second = result.groups
    assert first.rate.unclipped == pytest.approx(0.0, abs=1e-6)
    assert second.rate.unclipped == pytest.approx(0.0, abs=1e-6)
    (comparison,) = result.comparisons
    assert comparison.difference == pytest.approx(0.0, abs=1e-6)
    assert comparison.welch_p > 0.9
    assert comparison.interval.low < 0 < comparison.interval.high


@pytest.mark.parametrize("reviewed_mice", [["a0"], ["a1", "a2"]])
def test_wrong_calls_that_a_review_removed_are_no_spread_between_mice(tmp_path, reviewed_mice):
    calls, groups = write_study(tmp_path, UNEQUAL)
    errors = CallAccuracy.stated(0.85, 0.99)
    names = pd.read_csv(calls)["filename"]
    answers = dict.fromkeys(names[names.str[:2].isin(reviewed_mice)], "flowing")
    before = rates.rate(calls, groups, errors)
    after = rates.rate(calls, groups, errors, answers=answers)
    assert after.groups[0].rate.interval.high < before.groups[0].rate.interval.high
    assert after.groups[1] == before.groups[1]
    (compared,) = after.comparisons
    assert compared.interval.high - compared.interval.low < 0.03


def test_levelled_mice_differ_as_their_corrected_rates_do():
    sensitivity, false = exactly(0.9), exactly(0.004)
    each = np.array([[1.0, 0.85, 0.85]]), np.array([[0.0, 0.007, 0.007]])
    shares = np.array([[0.0, 0.01, 0.02]])
    levelled = level(shares, sensitivity, false, each)
    assert levelled.mean() == pytest.approx(shares.mean())
    rates_of = (shares - each[1]) / (each[0] - each[1])
    assert np.diff(levelled) == pytest.approx(np.diff(rates_of) * (0.9 - 0.004))


def test_levelling_does_not_make_mice_differ_more():
    # No call is left in any mouse, so the false calls expected in two of them are no spread.
    each = np.array([1.0, 0.85, 0.85]), np.array([0.0, 0.007, 0.007])
    assert not level(np.zeros(3), exactly(0.9), exactly(0.004), each).any()


def test_balanced_counts_keep_the_error_of_the_mean(tmp_path):
    tallies = [reviewing(10, 4), reviewing(0, 0)._replace(scored=250)]
    balanced = reviewed.balance(tallies)
    # 1,000 and 250 recordings have the error of two mice with 400.
    assert balanced.scored == pytest.approx(2 * 400)
    assert balanced.false_stalled == pytest.approx(4 * 400 / 1000)
    assert balanced.unseen_stalled == pytest.approx(14 * 400 / 1000 + 24 * 400 / 250)
    assert reviewed.balance(tallies[:1]) == pytest.approx(tallies[0])


def test_intervals_of_unequal_mice_hold_the_truth():
    # Only the largest mouse is reviewed; the full grid is in benchmarks/rates_review.md.
    rng, trials, true = np.random.default_rng(0), 400, 0.004
    sizes = np.array([2000, 200, 200, 200])
    stalls = rng.binomial(sizes, true, (trials, 4))
    found = rng.binomial(stalls, 0.85)
    false = rng.binomial(sizes - stalls, 0.007)
    tallies = []
    for mouse, size in enumerate(sizes):
        called = found[:, mouse] + false[:, mouse]
        parts = (called, size, called, size - called, called, size - called, 0 * called, 0 * called)
        if not mouse:
            parts = (stalls[:, 0], *parts[1:4], 0 * called, 0 * called, false[:, 0])
            parts = (*parts, (stalls - found)[:, 0])
        tallies.append(Tally(*parts))
    after = reviewed.remaining(exactly(0.85), exactly(0.007), reviewed.balance(tallies))
    shares = np.stack([tally.stalled for tally in tallies], axis=1) / sizes
    mean = corrected_mean_of_mice(shares, np.tile(sizes, (trials, 1)), *after, differs=True)
    assert mean.value.mean() == pytest.approx(true, abs=0.001)
    assert np.mean((mean.low <= true) & (true <= mean.high)) > 0.94
    # Mice that were not reviewed have about as many false calls as before.
    assert np.median(after[1].value) == pytest.approx(0.75 * 0.007, abs=0.0005)


def test_after_a_review_of_everything_nothing_is_said_to_be_corrected(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    table = pd.read_csv(calls)
    answers = dict(zip(table["filename"], table["call"], strict=True))
    answers["m1-0-99.mp4"] = "unscorable"
    said = " ".join(rates.rate(calls, groups, COUNTED, answers=answers).sentences())
    assert "nothing is corrected" in said
    assert "Corrected for" not in said
    assert "expected to remain" not in said
    del answers["m1-0-98.mp4"]
    said = " ".join(rates.rate(calls, groups, COUNTED, answers=answers).sentences())
    assert "nothing is corrected" not in said
    assert "Corrected for" in said


def test_a_study_without_answers_is_the_same_as_before(tmp_path):
    calls, groups = write_study(tmp_path, MICE)
    plain = rates.rate(calls, groups, COUNTED)
    assert rates.rate(calls, groups, COUNTED, answers={}) == plain
    assert rates.rate(calls, groups, COUNTED, answers={"elsewhere.mp4": "stalled"}) == plain
    assert all(unit.known == 0 for unit in plain.groups)
    assert "review" not in " ".join(plain.sentences())


def test_a_table_of_an_earlier_version_is_replaced(tmp_path):
    result = rates.rate(*write_study(tmp_path, MICE), COUNTED)
    out = tmp_path / "rates"
    written = tables.write_rates(result, out)
    for path in written:
        frame = pd.read_csv(path)
        frame.drop(columns="known", errors="ignore").to_csv(path, index=False)
    tables.write_rates(result, out)
    assert "known" in pd.read_csv(out / "rates_mice.csv")
