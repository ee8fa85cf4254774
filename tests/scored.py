"""Scored recordings made up by hand or by chance, and what chance does to them."""

import numpy as np

from stallscan.scores.metrics import Confusion, Scored


def scored_from_counts(cells: Confusion) -> Scored:
    """Recordings with these counts; called ones score 0.9, the others 0.1."""
    labels = np.repeat([1, 0, 0, 1], cells)
    calls = np.repeat([1, 1, 0, 0], cells)
    return Scored.check(labels, np.where(calls == 1, 0.9, 0.1), calls)


def random_scored(count: int, seed: int = 0) -> Scored:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.3
    scores = np.clip(rng.normal(0.3 + 0.35 * labels, 0.2), 0, 1).round(2)
    return Scored.check(labels, scores, scores >= 0.5, [0.5])


def gain_by_hand(before: Scored, after: Scored, groups: np.ndarray) -> np.ndarray:
    """95 % interval of the gain in MCC, recordings copied group by group."""
    rng = np.random.default_rng(1)
    rows = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    gains = []
    for _ in range(1000):
        drawn = np.concatenate([rows[name] for name in rng.integers(0, len(rows), len(rows))])
        # MCC is the correlation of labels and calls.
        old, new = (
            np.corrcoef(scored.labels[drawn], scored.calls[drawn])[0, 1]
            for scored in (before, after)
        )
        gains.append(new - old)
    return np.percentile(gains, [2.5, 97.5])
