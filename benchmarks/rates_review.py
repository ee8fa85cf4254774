"""How often the intervals of stallscan rate hold the truth after a review of some of the calls.

    python benchmarks/rates_review.py

Recordings, scores, calls, the evaluation and the mice are drawn from known rates; the review takes
recordings by their scores, as the page's orders do, or at random, and is always right. The
functions are those that make the tables.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray
from rates_coverage import MEASURED, SENSITIVITY, Floats, Truth, covers, mark
from scipy.stats import norm

from stallscan.rates import reviewed, rogan_gladen
from stallscan.rates.mice import corrected_mean_of_mice, difference_of_corrected_means, level
from stallscan.rates.power import DISEASED, HEALTHY, SPREAD, draw_mice
from stallscan.rates.reviewed import Tally
from stallscan.scores import intervals
from stallscan.scores.intervals import Share

Bools = NDArray[np.bool_]
# Specificity, and stalled and flowing recordings it is measured on: the worst and the best.
SCORINGS = ((0.993, *MEASURED[0]), (0.999, *MEASURED[-1]))
VESSELS = (200, 1000)
MICE, VESSELS_A_MOUSE = 4, 300
# Unequal mice, and which reviews of the largest and of the others.
UNEQUAL = (2000, 200, 200, 200)
UNEQUAL_REVIEWS = (
    ("everything", "nothing"),
    ("nothing", "everything"),
    ("all suspected stalls", "nothing"),
    ("nothing", "all suspected stalls"),
    ("a twentieth, uncertain first",) * 2,
)
AT_ONCE = 500  # trials, so that the scores fit into memory
# Intervals of mice and of groups: at least this.
LEAST, LEAST_OF_ONE = 0.94, 0.93


def _rank(keys: Floats) -> NDArray[np.int64]:
    """Give the place of each recording of a trial, from 0: lowest key first."""
    return np.argsort(np.argsort(keys, axis=1), axis=1)


# Which recordings are reviewed, of scores (trials, vessels) above 0 where they are called stalled.
REVIEWS: dict[str, Callable[[Floats, np.random.Generator], Bools]] = {
    "nothing": lambda scores, _rng: np.zeros(scores.shape, np.bool_),
    "all suspected stalls": lambda scores, _rng: scores >= 0,
    "all suspected stalls but one": lambda scores, _rng: (
        _rank(-scores) < (scores >= 0).sum(axis=1, keepdims=True) - 1
    ),
    "half of the suspected stalls, highest first": lambda scores, _rng: (
        2 * _rank(-scores) < (scores >= 0).sum(axis=1, keepdims=True)
    ),
    "a tenth, highest first": lambda scores, _rng: _rank(-scores) < scores.shape[1] // 10,
    "a twentieth, uncertain first": lambda scores, _rng: (
        _rank(np.abs(scores)) < scores.shape[1] // 20
    ),
    "a fifth at random": lambda scores, rng: rng.random(scores.shape) < 0.2,
    "everything": lambda scores, _rng: np.ones(scores.shape, np.bool_),
}
# Reviews of the two groups of a study.
PAIRS = (
    ("nothing", "nothing"),
    ("all suspected stalls", "all suspected stalls"),
    ("half of the suspected stalls, highest first",) * 2,
    ("a twentieth, uncertain first",) * 2,
    ("all suspected stalls", "nothing"),
    ("nothing", "all suspected stalls"),
    ("everything", "nothing"),
)


def main() -> None:
    """Draw, count and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--unequal-trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=common.HERE / "rates_review.md")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    single = vessel_rows(rng, given.trials)
    common.say("rates of one mouse: done")
    groups = group_rows(rng, given.trials)
    common.say("groups of mice: done")
    # Draws of its own, so that the tables above do not depend on it.
    unequal = unequal_rows(np.random.default_rng([given.seed, 1]), given.unequal_trials)
    common.publish(
        given.page,
        "Stall rates after a review",
        f"{given.trials:,} simulated trials a row (seed {given.seed}; {common.version()}), "
        f"sensitivity {100 * SENSITIVITY:.0f} %. A cell is the share of intervals that hold the "
        "truth, in percent (bold below 93 for one mouse and below 94 for groups) / their median "
        "width / the bias, both in percentage points. Its standard error is 0.3. "
        "[Stall rates](../docs/laboratory/rates.md) says what is computed.",
        [
            "## One field or mouse\n",
            "*Calls only* ignores the review. *Only the rest* is the bias of what is not done: "
            "reviewed recordings count as known, and the others are corrected with the "
            "sensitivity and specificity of all. What is left is not like all recordings, unless "
            "the review was random.\n",
            common.markdown(
                [
                    *("true rate", "specificity", "measured on stalled / flowing", "vessels"),
                    *("reviewed", "given", "calls only", "only the rest"),
                ],
                single,
            ),
            "## Two groups of mice\n",
            f"{MICE} mice a group with {VESSELS_A_MOUSE} vessels each, spread {SPREAD:g}. *Seen* "
            "is how often p is below 0.05; where the rates are the same, 5 % is nominal and less "
            "is safe.\n",
            common.markdown(
                [
                    *("true rates", "specificity", "measured on stalled / flowing"),
                    *("reviewed, first group", "second group"),
                    *("mean of the first", "difference", "seen"),
                ],
                groups,
            ),
            "## A group of mice with unequal numbers of vessels\n",
            f"Mice with {', '.join(f'{size:,}' for size in UNEQUAL)} vessels, spread "
            f"{SPREAD:g}, in {given.unequal_trials:,} trials a row. The difference is that from a "
            "second such group, which is not reviewed. *By vessels* is the bias of what is not "
            "done: the wrong calls that remain are added up over all vessels, although each mouse "
            "has the same weight in the mean.\n",
            common.markdown(
                [
                    *("true rates", "specificity", "measured on stalled / flowing"),
                    *("reviewed, largest mouse", "other mice"),
                    *("mean of the first", "by vessels", "difference", "seen"),
                ],
                unequal,
            ),
        ],
    )


def vessel_rows(rng: np.random.Generator, trials: int) -> list[list[str]]:
    """Coverage, width and bias of the rate of recordings that are alike."""
    rows = []
    for true, scoring, vessels, order in product((HEALTHY, DISEASED), SCORINGS, VESSELS, REVIEWS):
        truth = Truth(*scoring)
        tally = draw_review(rng, np.full(trials, true), truth, vessels, order)
        accuracy = truth.measure(rng, trials)
        after = accuracy if order == "nothing" else reviewed.remaining(*accuracy, tally)
        rest = tally.unseen_stalled + tally.unseen_flowing
        rest_rate = rogan_gladen.correct(
            intervals.jeffreys(tally.unseen_stalled, np.maximum(rest, 1)), *accuracy
        )
        known = tally.stalled - tally.unseen_stalled
        ways = [
            rogan_gladen.correct(intervals.jeffreys(tally.stalled, vessels), *after),
            rogan_gladen.correct(intervals.jeffreys(tally.called_stalled, vessels), *accuracy),
        ]
        cells = [cell(way, true, 0.0, LEAST_OF_ONE) for way in ways]
        bias = np.mean((known + rest * rest_rate.value) / vessels) - true
        cells.append(f"{100 * bias:+.2f}")
        rows.append([f"{100 * true:g} %", *truth.cells(), f"{vessels:,}", order, *cells])
    return rows


def group_rows(rng: np.random.Generator, trials: int) -> list[list[str]]:
    """Coverage of means and differences of groups, and how often a difference is seen."""
    rows = []
    for (first, second), scoring, orders in product(
        ((HEALTHY, DISEASED), (HEALTHY, HEALTHY)), SCORINGS, PAIRS
    ):
        truth = Truth(*scoring)
        accuracy = truth.measure(rng, trials)
        shares, accuracies = [], []
        for true, order in zip((first, second), orders, strict=True):
            mice = draw_mice(rng, true, SPREAD, (trials, MICE))
            tallies = [draw_review(rng, rate, truth, VESSELS_A_MOUSE, order) for rate in mice.T]
            after = accuracy
            called = np.stack([tally.stalled / VESSELS_A_MOUSE for tally in tallies], axis=1)
            if order != "nothing":
                after = reviewed.remaining(*accuracy, reviewed.balance(tallies))
                called = level_mice(called, after, accuracy, tallies, [order] * MICE)
            shares.append(called)
            accuracies.append(after)
        scored = np.full((trials, MICE), float(VESSELS_A_MOUSE))
        mean = corrected_mean_of_mice(
            shares[0], scored, *accuracies[0], differs=orders[0] != "nothing"
        )
        difference, p = difference_of_corrected_means(
            (shares[0], shares[1]), (scored, scored), (accuracies[0], accuracies[1])
        )
        rows.append(
            [
                f"{100 * first:g} %, {100 * second:g} %",
                *truth.cells(),
                *orders,
                cell(mean, first, 0.0, LEAST),
                cell(difference, second - first, -1.0, LEAST),
                f"{100 * np.mean(p < 0.05):.1f}",
            ]
        )
    return rows


def unequal_rows(rng: np.random.Generator, trials: int) -> list[list[str]]:
    """Coverage of a group of unequal mice, some reviewed, and of its difference from another."""
    rows = []
    for (first, second), scoring, (largest, others) in product(
        ((HEALTHY, DISEASED), (HEALTHY, HEALTHY)), SCORINGS, UNEQUAL_REVIEWS
    ):
        truth = Truth(*scoring)
        accuracy = truth.measure(rng, trials)
        scored = np.broadcast_to(np.asarray(UNEQUAL, np.float64), (trials, len(UNEQUAL)))
        groups = []
        orders = [largest, *[others] * (len(UNEQUAL) - 1)]
        for true, reviews in ((first, orders), (second, ["nothing"] * len(UNEQUAL))):
            mice = draw_mice(rng, true, SPREAD, scored.shape)
            drawn = zip(mice.T, UNEQUAL, reviews, strict=True)
            groups.append(
                [draw_review(rng, rate, truth, size, order) for rate, size, order in drawn]
            )
        shares = [np.stack([each.stalled for each in group], axis=1) / scored for group in groups]
        after = reviewed.remaining(*accuracy, reviewed.balance(groups[0]))
        shares[0] = level_mice(shares[0], after, accuracy, groups[0], orders)
        vessels = Tally(*(sum(numbers) for numbers in zip(*groups[0], strict=True)))
        by_vessels = rogan_gladen.correct(
            intervals.exactly(shares[0].mean(axis=1)), *reviewed.remaining(*accuracy, vessels)
        )
        mean = corrected_mean_of_mice(shares[0], scored, *after, differs=True)
        difference, p = difference_of_corrected_means(
            (shares[0], shares[1]), (scored, scored), (after, accuracy)
        )
        rows.append(
            [
                f"{100 * first:g} %, {100 * second:g} %",
                *(*truth.cells(), largest, others),
                cell(mean, first, 0.0, LEAST),
                f"{100 * (np.mean(by_vessels.value) - first):+.2f}",
                cell(difference, second - first, -1.0, LEAST),
                f"{100 * np.mean(p < 0.05):.1f}",
            ]
        )
    return rows


def level_mice(
    shares: Floats,
    after: tuple[Share, Share],
    before: tuple[Share, Share],
    tallies: Sequence[Tally],
    orders: Sequence[str],
) -> Floats:
    """Level the shares of mice, (trials, mice), as the tables do."""
    own = [
        before if order == "nothing" else reviewed.remaining(*before, tally)
        for tally, order in zip(tallies, orders, strict=True)
    ]
    each = [np.stack([pair[kind].value for pair in own], axis=1) for kind in (0, 1)]
    return np.asarray(level(shares, *after, (each[0], each[1])))


def draw_review(
    rng: np.random.Generator, rates: Floats, truth: Truth, vessels: int, order: str
) -> Tally:
    """Draw recordings of mice with these rates, (trials,), and count them after a review."""
    parts: Sequence[Tally] = [
        _draw(rng, rates[start : start + AT_ONCE], truth, vessels, order)
        for start in range(0, len(rates), AT_ONCE)
    ]
    return Tally(*(np.concatenate(numbers) for numbers in zip(*parts, strict=True)))


def _draw(rng: np.random.Generator, rates: Floats, truth: Truth, vessels: int, order: str) -> Tally:
    stalled = rng.random((len(rates), vessels)) < rates[:, np.newaxis]
    cuts = norm.ppf(SENSITIVITY), norm.ppf(1.0 - truth.specificity)
    scores = rng.normal(size=stalled.shape) + np.where(stalled, *cuts)
    called, seen = scores >= 0, REVIEWS[order](scores, rng)
    numbers = (
        *(np.where(seen, stalled, called), np.ones_like(called), called, ~called),
        *(called & ~seen, ~called & ~seen, called & seen & ~stalled, ~called & seen & stalled),
    )
    return Tally(*(number.sum(axis=1) for number in numbers))


def cell(share: Share, true: float, lowest: float, least: float) -> str:
    """Write coverage, median width and bias of an interval as it is shown."""
    low, high = (np.clip(limit, lowest, 1.0) for limit in (share.low, share.high))
    covered = mark(covers(Share(share.value, low, high), true), least, 1.0)
    bias = 100 * (float(np.mean(share.value)) - true)
    return f"{covered} / {100 * np.median(high - low):.2f} / {bias:+.2f}"


if __name__ == "__main__":
    main()
