"""How often the intervals of stallscan rate hold the truth, and how far the rates are off.

    python benchmarks/rates_coverage.py

Everything is drawn from known rates: the calls, the evaluation that sensitivity and specificity are
measured in, and the mice. The functions are those that make the tables.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stallscan.rates import rogan_gladen
from stallscan.rates.correction import CallAccuracy
from stallscan.rates.mice import corrected_difference_of_mice, corrected_mean_of_mice, pool, welch
from stallscan.rates.power import DISEASED, HEALTHY, SPREAD, compare_scorings, draw_mice
from stallscan.scores import intervals
from stallscan.scores.intervals import Share

Floats = NDArray[np.float64]

SENSITIVITY = 0.85  # published: docs/facts.md 6
SPECIFICITIES = (0.993, 0.999)  # published, and what users need: docs/facts.md 6
# Stalled and flowing recordings that they are measured on: a validation set, and a test set.
MEASURED = tuple(product((71, 500), (2000, 10000)))
VESSELS = (1000, 5000)
# Of studies by mouse: specificity, and stalled and flowing recordings it is measured on.
SCORINGS = ((0.993, 71, 2000), (0.999, 500, 10000))
MICE = (2, 3, 5, 8)
VESSELS_A_MOUSE = (200, 1000)
# Of mice with unequal numbers of vessels, as many of them as there are mice.
UNEQUAL = (100, 900, 300, 700, 500, 200, 1000, 300)
# None, the usual one, and more than intervals by mouse can bear.
SPREADS = (0.0, SPREAD, 1.0)
NOMINAL = (0.93, 0.97)
# Of groups and differences: at least this, however wide.
LEAST = 0.94
# How many ways to make the interval of a group, and of a difference, were compared before these
# were taken, the former ones among them.
CANDIDATES = (30, 9)


class Truth(NamedTuple):
    """What one row of a table is drawn from."""

    specificity: float
    stalled: int
    flowing: int

    def called(self, rates: Any) -> Any:
        """Give the share called stalled where this share is stalled."""
        return rates * SENSITIVITY + (1.0 - rates) * (1.0 - self.specificity)

    def measure(self, rng: np.random.Generator, trials: int) -> tuple[Share, Share]:
        """Draw evaluations: sensitivity, and share of flowing called stalled."""
        found = rng.binomial(self.stalled, SENSITIVITY, trials)
        false = rng.binomial(self.flowing, 1.0 - self.specificity, trials)
        return intervals.jeffreys(found, self.stalled), intervals.jeffreys(false, self.flowing)

    def cells(self) -> list[str]:
        """Write it in a table."""
        return [f"{100 * self.specificity:.1f} %", f"{self.stalled} / {self.flowing:,}"]


def main() -> None:
    """Draw, count and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, default=common.HERE / "rates_coverage.md")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    single, worst = vessel_rows(rng, given.trials)
    common.say("rates of one mouse: done")
    zero = zero_rows(rng, given.trials)
    groups, summary_of_groups = group_rows(rng, given.trials)
    common.say("groups: done")
    compared, summary_of_compared = difference_rows(rng, given.trials)
    common.say("differences: done")
    tests = test_rows(rng, given.trials)
    common.say("tests: done")
    lead = (
        f"{given.trials:,} simulated trials a row (seed {given.seed}; {common.version()}), "
        f"sensitivity {100 * SENSITIVITY:.0f} %. An interval is to hold the truth in 95 % of "
        "trials; a cell is that share in percent, **bold** outside 93 to 97 (of groups and "
        "differences: below 94). Its standard error is 0.2. "
        "[Stall rates](../docs/laboratory/rates.md) says what the intervals are."
    )
    common.publish(
        given.page,
        "Stall rates: coverage, bias, tests, power",
        lead,
        [
            "## One field or mouse\n",
            "*Bias* is of the corrected rate, in percentage points: before it is clipped to 0 (of "
            "which means are taken), and as it is shown. *Reads as* is the rate without "
            f"correction, over the true one. {worst}\n",
            common.markdown(
                [
                    "true rate",
                    "specificity",
                    "measured on stalled / flowing",
                    "vessels",
                    "called (Wilson)",
                    "corrected",
                    "bias",
                    "bias as shown",
                    "reads as",
                ],
                single,
            ),
            "## No stalls at all\n",
            "How often a rate is said to be told from 0 where there is none: 2.5 % is nominal.\n",
            common.markdown(
                ["specificity", "measured on stalled / flowing", "vessels", "told from 0"], zero
            ),
            "## The mean of a group\n",
            "True rates of mice have a beta distribution; *spread* is their standard deviation "
            "over their mean. A cell is coverage / median width in percentage points. *Before* is "
            "the former interval: without a bound from independent vessels, with Jeffreys for "
            "Clopper & Pearson, and without the gain for spread. *Vessels* is the interval of all "
            "vessels as if they were independent; *narrower* is how often the given one is "
            f"narrower than that, in percent. {CANDIDATES[0]} intervals were compared before this "
            "one was taken, with 2,000 to 20,000 trials a scenario on other seeds and partly other "
            f"scenarios; it is among the narrowest that held 94 % there. {summary_of_groups}\n",
            common.markdown(
                [
                    *STUDY_HEAD[:1],
                    "true rate",
                    *STUDY_HEAD[1:],
                    "given",
                    "before",
                    "vessels",
                    "narrower",
                ],
                groups,
            ),
            "## The difference of two groups\n",
            "Cells as above. *Before* is Welch's interval; *told from 0* is how often the interval "
            f"leaves 0 out, now and before. "
            f"{CANDIDATES[1]} intervals were compared. {summary_of_compared}\n",
            common.markdown(
                [
                    *STUDY_HEAD[:1],
                    "true rates",
                    *STUDY_HEAD[1:],
                    "given",
                    "before",
                    "vessels",
                    "narrower",
                    "told from 0",
                    "before",
                ],
                compared,
            ),
            "## Tests where the groups are the same\n",
            "How often p is below 0.05 where both groups have the rate that is stated: 5 % is "
            "nominal, less is safe. *Quasi-binomial* is a regression with the spread estimated "
            "from the mice; *vessels* compares all vessels of one group with all of the other.\n",
            common.markdown(
                [
                    "mice a group",
                    "true rate",
                    "vessels a mouse",
                    "spread",
                    "Welch (given)",
                    "permutation (given)",
                    "quasi-binomial",
                    "vessels",
                ],
                tests,
            ),
            "## Mice for the next study\n",
            "Mice a group to see 0.4 % against 2 % in 80 % of studies by Welch's test at a "
            f"two-sided 5 %; spread of mice {SPREAD:g} (chosen).\n",
            common.markdown(["scoring", *(f"{v:,} vessels" for v in POWER_VESSELS)], power_rows()),
        ],
    )


def vessel_rows(rng: np.random.Generator, trials: int) -> tuple[list[list[str]], str]:
    """Coverage and bias of the rate of recordings that are alike."""
    rows, off, covered = [], [], []
    for true, specificity, (stalled, flowing), vessels in product(
        (HEALTHY, DISEASED), SPECIFICITIES, MEASURED, VESSELS
    ):
        truth = Truth(specificity, stalled, flowing)
        count = rng.binomial(vessels, truth.called(true), trials)
        found, false = truth.measure(rng, trials)
        made = rogan_gladen.correct(intervals.jeffreys(count, vessels), found, false)
        parts = [
            covers(intervals.wilson(count, vessels), truth.called(true)),
            covers(made, true),
        ]
        bias = 100 * (made.value.mean() - true)
        shown = 100 * (np.clip(made.value, 0, 1).mean() - true)
        off.append(abs(bias))
        covered.append(parts[1])
        rows.append(
            [
                f"{100 * true:g} %",
                *truth.cells(),
                f"{vessels:,}",
                *map(mark, parts),
                f"{bias:+.3f}",
                f"{shown:+.3f}",
                f"{(count / vessels).mean() / true:.2f}",
            ]
        )
    worst = (
        f"The corrected interval holds the truth in {extent(covered)}, and the bias is "
        f"{max(off):.3f} points at most."
    )
    return rows, worst


def zero_rows(rng: np.random.Generator, trials: int) -> list[list[str]]:
    """How often a rate of 0 is told from 0."""
    rows = []
    for specificity, (stalled, flowing), vessels in product(SPECIFICITIES, MEASURED, VESSELS):
        truth = Truth(specificity, stalled, flowing)
        count = rng.binomial(vessels, truth.called(0.0), trials)
        made = rogan_gladen.correct(intervals.jeffreys(count, vessels), *truth.measure(rng, trials))
        rows.append([*truth.cells(), f"{vessels:,}", f"{100 * np.mean(made.low > 0):.1f}"])
    return rows


STUDY_HEAD = (
    "mice a group",
    "specificity",
    "measured on stalled / flowing",
    "vessels a mouse",
    "spread",
)


class Study(NamedTuple):
    """Mice, and what they are scored with."""

    truth: Truth
    mice: int
    vessels: int | None
    spread: float

    @property
    def scored(self) -> Floats:
        """Vessels of each mouse: float (mice,)."""
        if self.vessels is None:
            return np.array(UNEQUAL[: self.mice], np.float64)
        return np.full(self.mice, float(self.vessels))

    def draw(self, rng: np.random.Generator, true: float, trials: int) -> Floats:
        """Draw the share called stalled of each mouse: float (trials, mice)."""
        rates = draw_mice(rng, true, self.spread, (trials, self.mice))
        scored = self.scored
        return np.asarray(rng.binomial(scored.astype(int), self.truth.called(rates)) / scored)

    def cells(self, true: str) -> list[str]:
        """Write it in a table."""
        scored = self.scored.astype(int)
        vessels = f"{scored[0]:,}" if self.vessels else f"{scored.min():,} to {scored.max():,}"
        return [f"{self.mice}", true, *self.truth.cells(), vessels, f"{self.spread:g}"]


def studies() -> Iterator[Study]:
    """Give every study of the tables by mouse."""
    for spread, mice, scoring, vessels in product(
        SPREADS, MICE, SCORINGS, (*VESSELS_A_MOUSE, None)
    ):
        yield Study(Truth(*scoring), mice, vessels, spread)


def group_rows(rng: np.random.Generator, trials: int) -> tuple[list[list[str]], str]:
    """Coverage and width of the mean of a group."""
    rows = []
    held = Held()
    for true, study in product((HEALTHY, DISEASED), studies()):
        seen = study.draw(rng, true, trials)
        measured = study.truth.measure(rng, trials)
        ways = [
            corrected_mean_of_mice(seen, study.scored, *measured),
            rogan_gladen.correct(former_mean_of_mice(seen, study.scored), *measured),
            rogan_gladen.correct(pool(seen, study.scored), *measured),
        ]
        rows.append([*study.cells(f"{100 * true:g} %"), *held.add(study, ways, true, 0.0)])
    return rows, str(held)


def difference_rows(rng: np.random.Generator, trials: int) -> tuple[list[list[str]], str]:
    """Coverage and width of the difference of two groups, and how often it is seen."""
    rows = []
    held = Held()
    pairs = ((HEALTHY, DISEASED), (HEALTHY, HEALTHY))
    for (first, second), study in product(pairs, studies()):
        seen = study.draw(rng, first, trials), study.draw(rng, second, trials)
        scored = (study.scored,) * 2
        measured = study.truth.measure(rng, trials)
        one, two = (pool(each, study.scored) for each in seen)
        ways = [
            corrected_difference_of_mice(seen, scored, *measured)[0],
            rogan_gladen.correct_difference(welch(*seen)[0], *measured),
            rogan_gladen.correct_difference(intervals.subtract(one, two), *measured),
        ]
        cells = held.add(study, ways, second - first, -1.0)
        told = [f"{100 * np.mean((way.low > 0) | (way.high < 0)):.1f}" for way in ways[:2]]
        true = f"{100 * first:g} %, {100 * second:g} %"
        rows.append([*study.cells(true), *cells, *told])
    return rows, str(held)


class Held:
    """How often the given intervals and the former ones hold the truth, by spread of the mice."""

    def __init__(self) -> None:
        self.given: dict[float, list[float]] = {spread: [] for spread in SPREADS}
        self.former: dict[float, list[float]] = {spread: [] for spread in SPREADS}
        self.narrower = 0.0

    def add(self, study: Study, ways: list[Share], true: float, lowest: float) -> list[str]:
        """Count a row: intervals as they are shown, given, former and of vessels."""
        shown = [
            Share(way.value, np.clip(way.low, lowest, 1.0), np.clip(way.high, lowest, 1.0))
            for way in ways
        ]
        parts = [covers(way, true) for way in shown]
        self.given[study.spread].append(parts[0])
        self.former[study.spread].append(parts[1])
        widths = [way.high - way.low for way in shown]
        narrower = float(np.mean(widths[0] < widths[2] - 1e-12))
        self.narrower = max(self.narrower, narrower)
        cells = [
            f"{mark(part, LEAST, 1.0)} / {100 * np.median(width):.2f}"
            for part, width in zip(parts, widths, strict=True)
        ]
        return [*cells, f"{100 * narrower:.1f}"]

    def __str__(self) -> str:
        parts = [
            f"{100 * min(given):.1f} to {100 * max(given):.1f} % at spread {spread:g} (before "
            f"{100 * min(self.former[spread]):.1f} to {100 * max(self.former[spread]):.1f})"
            for spread, given in self.given.items()
        ]
        return (
            f"The given interval holds the truth in {'; '.join(parts)}, and is narrower than that "
            f"of independent vessels in {100 * self.narrower:.1f} % of trials at most."
        )


def former_mean_of_mice(seen: Floats, scored: Floats) -> Share:
    """Mean of mice with the interval that was given before."""
    mice = seen.shape[1]
    mean = seen.mean(axis=1)
    variance = seen.var(axis=1, ddof=1) / mice
    few = (intervals.Z / stats.t.ppf(0.975, mice - 1)) ** 2
    alike = np.full(mean.shape, scored.sum())
    independent = np.divide(mean * (1.0 - mean) * few, variance, out=alike, where=variance > 1e-15)
    interval = intervals.jeffreys(mean * independent, independent)
    return Share(mean, interval.low, interval.high)


def test_rows(rng: np.random.Generator, trials: int) -> list[list[str]]:
    """How often each test sees a difference where there is none."""
    rows = []
    truth = Truth(0.993, 1, 1)
    for mice, true, vessels, spread in product(
        (3, 4, 6), (HEALTHY, DISEASED), VESSELS_A_MOUSE, SPREADS[:2]
    ):
        study = Study(truth, mice, vessels, spread)
        one, two = (study.draw(rng, true, trials) for _ in range(2))
        exact = intervals.exactly(1.0), intervals.exactly(0.0)
        tests = [
            corrected_difference_of_mice((one, two), (study.scored,) * 2, *exact)[1],
            permutation(one, two),
            quasi_binomial(one, two, vessels),
            all_vessels(one, two, vessels),
        ]
        shown = [f"{100 * np.mean(p < 0.05):.1f}" for p in tests]
        rows.append([f"{mice}", f"{100 * true:g} %", f"{vessels:,}", f"{spread:g}", *shown])
    return rows


POWER_VESSELS = (200, 500, 1000, 5000)


def power_rows() -> list[list[str]]:
    """Mice a group that the next study needs."""
    better = CallAccuracy.stated(SENSITIVITY, 0.999)
    columns = [compare_scorings(better, vessels=vessels) for vessels in POWER_VESSELS]
    names = ["85 % / 99.9 %", *(power.scoring for power in columns[0][1:])]
    return [
        [name, *(str(powers[row].mice) for powers in columns)] for row, name in enumerate(names)
    ]


def covers(share: Share, true: float) -> float:
    """Give how often the interval holds the truth."""
    return float(np.mean((share.low <= true) & (true <= share.high)))


def mark(part: float, low: float = NOMINAL[0], high: float = NOMINAL[1]) -> str:
    """Write a coverage in percent, bold where it is not what it should be."""
    text = f"{100 * part:.1f}"
    return text if low <= part <= high else f"**{text}**"


def extent(covered: list[float]) -> str:
    """Say between what coverages lie, and how many are within what is asked."""
    inside = sum(NOMINAL[0] <= part <= NOMINAL[1] for part in covered)
    return (
        f"{100 * min(covered):.1f} to {100 * max(covered):.1f} % of trials ({inside} of "
        f"{len(covered)} rows within 93 to 97)"
    )


def permutation(one: Floats, two: Floats) -> Floats:
    """Exact two-sided p of `mice.permutation_p`, of many studies with equal groups at once."""
    mice = one.shape[1]
    pooled = np.concatenate([one, two], axis=1)

    columns = []
    for members in combinations(range(2 * mice), mice):
        column = np.zeros(2 * mice)
        column[list(members)] = 1.0
        columns.append(column)
    chosen = np.column_stack(columns)
    # The sum of one half tells the difference, as the whole is the same.
    sums = np.abs(pooled @ chosen - pooled.sum(axis=1, keepdims=True) / 2)
    seen = np.abs(two.sum(axis=1) - one.sum(axis=1))[:, None] / 2
    return np.asarray((sums >= seen - 1e-12).mean(axis=1))


def quasi_binomial(one: Floats, two: Floats, vessels: int) -> Floats:
    """P of the group in a quasi-binomial regression, by its t; 1 where a group has no stall."""
    mice = one.shape[1]
    first, second = one.mean(axis=1), two.mean(axis=1)
    usable = (first > 0) & (second > 0)
    first, second = np.where(usable, first, 0.5), np.where(usable, second, 0.5)
    squares = [
        (vessels * (group - mean[:, None]) ** 2).sum(axis=1) / (mean * (1 - mean))
        for group, mean in ((one, first), (two, second))
    ]
    dispersion = (squares[0] + squares[1]) / (2 * mice - 2)
    odds = np.log(second / (1 - second)) - np.log(first / (1 - first))
    inverse = sum(1 / (vessels * mice * mean * (1 - mean)) for mean in (first, second))
    error = np.sqrt(np.maximum(dispersion * inverse, 1e-300))
    p = 2 * stats.t.sf(np.abs(odds) / error, 2 * mice - 2)
    return np.where(usable, p, 1.0)


def all_vessels(one: Floats, two: Floats, vessels: int) -> Floats:
    """P of the chi-square test that takes every vessel as independent."""
    mice = one.shape[1]
    difference = two.mean(axis=1) - one.mean(axis=1)
    common_ = (two.mean(axis=1) + one.mean(axis=1)) / 2
    error = np.sqrt(np.maximum(common_ * (1 - common_) * 2 / (vessels * mice), 1e-300))
    return np.asarray(2 * stats.norm.sf(np.abs(difference) / error))


if __name__ == "__main__":
    main()
