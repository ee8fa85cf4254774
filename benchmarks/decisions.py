"""Whether what `stallscan decide` promises holds, on drawn scores whose truth is known.

Scores are drawn from two normal distributions of log-odds, calibrated at 30 % stalled, as those of
the shipped bundle are. Three things are counted over many trials: how far the prevalence that is
estimated from scores alone is from the true one, and how often its interval holds it; and how often
the share of wrong calls outside the limits is as small as they guarantee.
"""

from pathlib import Path

import cyclopts
import numpy as np
from common import HERE, markdown, publish, show_progress, version
from numpy.typing import NDArray
from scipy.stats import norm

from stallscan.scores.prevalence import estimate_prevalence
from stallscan.scores.thresholds import ReviewBand

CALIBRATED_AT = 0.3
# How far apart stalled and flowing are, in standard deviations: ROC AUC 0.94, 0.98 and 0.998.
DISTANCES = (2.2, 3.0, 4.0)
PREVALENCES = (0.01, 0.02, 0.046, 0.3)
# As `stallscan decide` has them, and stricter ones: (missed, false).
GUARANTEES = ((0.05, 0.01), (0.1, 0.01), (0.05, 0.05))
LABELLED = (600, 3000)
Floats = NDArray[np.float64]


def main(*, trials: int = 10_000, count: int = 20_000, page: Path | None = None) -> None:
    """Draw, count, and write the tables.

    Parameters
    ----------
    trials
        Of each row.
    count
        Scores that a prevalence is estimated from.
    page
        The tables, a Markdown file; benchmarks/decisions.md if not given.
    """
    lead = (
        f"Drawn scores ({trials:,} trials a row), not those of a net: what is tested is the "
        f"arithmetic, given a calibration that is right. {version()}."
    )
    estimated = [
        estimate(distance, prevalence, trials, count)
        for distance in DISTANCES
        for prevalence in PREVALENCES
    ]
    guaranteed = [
        guarantee(distance, labelled, missed, false, trials)
        for distance in DISTANCES[:2]
        for labelled in LABELLED
        for missed, false in GUARANTEES
    ]
    heads = (
        ["ROC AUC", "true", "mean estimate", "within 20 %", "95 % interval holds it", "doubted"],
        ["ROC AUC", "labelled", "missed", "holds", "false", "holds", "left to a person"],
    )
    publish(
        page or HERE / "decisions.md",
        "What decisions promise",
        lead,
        [
            f"Prevalence estimated from {count:,} scores without labels:\n",
            markdown(heads[0], estimated),
            "Limits, nominal 95 %; *holds* is how often no more than that share of new recordings "
            f"is called wrongly; the last column at {CALIBRATED_AT:.0%} stalled:\n",
            markdown(heads[1], guaranteed),
        ],
    )


def draw(
    rng: np.random.Generator, distance: float, prevalence: float, count: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Draw calibrated scores and their labels."""
    labels = (rng.random(count) < prevalence).astype(np.int64)
    values = rng.normal(distance * labels, 1.0)
    odds = distance * (values - distance / 2) + np.log(CALIBRATED_AT / (1 - CALIBRATED_AT))
    return 1 / (1 + np.exp(-odds)), labels


def values_of(scores: float, distance: float) -> float:
    """Give the value from which a score was made."""
    odds = np.log(scores / (1 - scores)) - np.log(CALIBRATED_AT / (1 - CALIBRATED_AT))
    return float(odds / distance + distance / 2)


def estimate(distance: float, prevalence: float, trials: int, count: int) -> list[str]:
    """Count how good the estimated prevalence is."""
    rng = np.random.default_rng([int(distance * 10), int(prevalence * 1000)])
    say = show_progress(f"prevalence {prevalence:.1%}")
    found, held, doubted = [], 0, 0
    for trial in range(trials):
        made = estimate_prevalence(draw(rng, distance, prevalence, count)[0], CALIBRATED_AT)
        found.append(made.prevalence)
        held += made.interval.low <= prevalence <= made.interval.high
        doubted += bool(made.doubt)
        say(trial + 1, trials)
    near = np.abs(np.array(found) / prevalence - 1) < 0.2
    return [
        _auc(distance),
        f"{prevalence:.1%}",
        f"{np.mean(found):.2%}",
        f"{near.mean():.1%}",
        f"{held / trials:.1%}",
        f"{doubted / trials:.1%}",
    ]


def guarantee(
    distance: float, labelled: int, missed: float, false: float, trials: int
) -> list[str]:
    """Count how often the limits hold; the shares of new recordings are known exactly."""
    rng = np.random.default_rng([int(distance * 10), labelled, int(missed * 1000)])
    say = show_progress(f"limits from {labelled}")
    held, between = np.zeros(2), []
    for trial in range(trials):
        limits = ReviewBand.of(*draw(rng, distance, CALIBRATED_AT, labelled), missed, false)
        low, high = values_of(limits.low, distance), values_of(limits.high, distance)
        held += (norm.cdf(low - distance) <= missed, norm.sf(high) <= false)
        stalled, flowing = (norm.cdf(high - at) - norm.cdf(low - at) for at in (distance, 0.0))
        between.append(CALIBRATED_AT * stalled + (1 - CALIBRATED_AT) * flowing)
        say(trial + 1, trials)
    return [
        _auc(distance),
        f"{labelled:,}",
        f"{missed:.0%}",
        f"{held[0] / trials:.1%}",
        f"{false:.0%}",
        f"{held[1] / trials:.1%}",
        f"{np.mean(between):.1%}",
    ]


def _auc(distance: float) -> str:
    return f"{norm.cdf(distance / np.sqrt(2)):.3f}"


if __name__ == "__main__":
    cyclopts.run(main)
