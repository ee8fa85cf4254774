"""Paired comparison of two models on the recordings that both called flowing or stalled."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan import words
from stallscan.catalog.names import match
from stallscan.errors import InputError
from stallscan.evaluation.breakdown import Group
from stallscan.evaluation.evaluate import Evaluation, scored_of, values_of
from stallscan.scores import bootstrap
from stallscan.scores.metrics import Floats, Interval

COMPARED = ("mcc", "recall", "specificity", "roc_auc", "pr_auc", "brier", "log_loss")
LOWER_IS_BETTER = ("brier", "log_loss")


@dataclass(frozen=True)
class Difference:
    """One figure of two models on the same recordings.

    Attributes
    ----------
    name : str
        Name of the figure, as in `evaluate.FIGURES`.
    first, second : float or None
        Value for each model; None where it is undefined.
    interval : Interval or None
        95 % interval of second minus first, from paired draws.
    by_few : bool
        Whether too few groups were resampled for a reliable interval.
    """

    name: str
    first: float | None
    second: float | None
    interval: Interval | None
    by_few: bool

    @property
    def difference(self) -> float | None:
        """Second minus first."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """What the interval says about the second model, in words."""
        if self.interval is None:
            return "not defined"
        if self.by_few:
            return "too few groups to tell"
        low, high = self.interval
        if low <= 0.0 <= high:
            return "no difference can be told"
        return "better" if (low > 0.0) != (self.name in LOWER_IS_BETTER) else "worse"


@dataclass(frozen=True)
class ModelComparison:
    """The result of `compare`.

    Attributes
    ----------
    first, second : Evaluation
        Each model on all recordings that it called.
    count, stalled : int
        Recordings that both called, and how many of them are labelled stalled.
    group : Group
        The unit that the bootstrap resamples.
    differences : tuple of Difference
        Each figure in `COMPARED`, on the recordings that both called.
    """

    first: Evaluation
    second: Evaluation
    count: int
    stalled: int
    group: Group
    differences: tuple[Difference, ...]

    @property
    def is_on_all(self) -> bool:
        """Whether both called the same recordings."""
        return self.count == self.first.rows.evaluated == self.second.rows.evaluated


def compare(first: Evaluation, second: Evaluation) -> ModelComparison:
    """Compare two evaluations on the recordings that both called flowing or stalled.

    Both models are measured on the same bootstrap draws, so what makes a draw easy for both cancels
    out. Whole groups are resampled where both evaluations group by the same column.

    Raises
    ------
    InputError
        If they have no such recording in common, or a recording has two different labels.
    """
    old, new = first.evaluated, second.evaluated
    partner = match(new["filename"], old["filename"], first.predictions).dropna()
    if partner.empty:
        raise InputError(
            f"{first.predictions} and {second.predictions} have no recording in common that both "
            "call flowing or stalled. Compare predictions of the same recordings"
        )
    new = new.loc[partner.index]
    old = old.set_index("filename", drop=False).loc[partner.tolist()]
    differ = old["stalled"].to_numpy() != new["stalled"].to_numpy()
    if differ.any():
        named = words.listed(old["filename"][differ].tolist())
        raise InputError(
            f"{first.labels} and {second.labels} label {int(differ.sum()):,} recordings "
            f"differently: {named}. Use the same labels for both"
        )
    column = first.group.column if first.group.column == second.group.column else ""
    groups = old["group"].to_numpy(str) if column else None
    (first_values, first_draws), (second_values, second_draws) = (
        _figures(side, rows, groups) for side, rows in ((first, old), (second, new))
    )
    group = Group(column, len(old) if groups is None else len(set(groups)))
    return ModelComparison(
        first=first,
        second=second,
        count=len(old),
        stalled=int(old["stalled"].sum()),
        group=group,
        differences=tuple(
            Difference(
                name,
                first_values[name],
                second_values[name],
                bootstrap.interval(second_draws[name] - first_draws[name]),  # (D,)
                group.is_too_few,
            )
            for name in COMPARED
        ),
    )


def _figures(
    side: Evaluation, rows: pd.DataFrame, groups: NDArray[np.str_] | None
) -> tuple[Mapping[str, float | None], dict[str, Floats]]:
    """Return the figures of one model on the shared rows, and their bootstrap draws.

    They are taken from its evaluation if the rows, their order and the groups are the same: half a
    million rows would otherwise take 13 s.
    """
    own = side.evaluated
    own_groups = own["group"].to_numpy(str) if side.group.column else None
    is_same = np.array_equal(rows["filename"], own["filename"]) and (
        own_groups is None
        if groups is None
        else own_groups is not None and np.array_equal(groups, own_groups)
    )
    if is_same:
        return side.values, side.drawn.figures()
    scored = scored_of(rows)
    return values_of(scored), bootstrap.draw(scored, groups).figures()
