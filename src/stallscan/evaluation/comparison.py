"""Two sets of calls compared, on the recordings that both called flowing or stalled."""

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
    """One figure of two sets of calls on the same recordings.

    Attributes
    ----------
    name : str
        Of the figure, as in `evaluate.FIGURES`.
    first, second : float or None
        What each has; None where it cannot be told.
    interval : Interval or None
        95 % of the second less the first, drawn in pairs.
    by_few : bool
        Whether it was drawn by fewer groups than can be trusted.
    """

    name: str
    first: float | None
    second: float | None
    interval: Interval | None
    by_few: bool

    @property
    def difference(self) -> float | None:
        """The second less the first."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """Say in plain words what the interval allows to say about the second."""
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
        Each on all its own recordings.
    count, stalled : int
        Recordings that both called, and how many of them are labelled stalled.
    group : Group
        What the intervals were drawn by.
    differences : tuple of Difference
        On those recordings, each of `COMPARED`.
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

    The same draws of recordings (or groups, where both evaluations have them by the same column)
    are measured with both, so what makes a draw easy for both falls out of the difference.

    Raises
    ------
    InputError
        If there is no such recording, or the labels of one differ.
    """
    old, new = first.evaluated, second.evaluated
    partner = match(new["filename"], old["filename"], first.predictions).dropna()
    if partner.empty:
        raise InputError(
            f"{first.predictions} and {second.predictions} have no recording in common that both "
            "call flowing or stalled; compare predictions of the same recordings"
        )
    new = new.loc[partner.index]
    old = old.set_index("filename", drop=False).loc[partner.tolist()]
    differ = old["stalled"].to_numpy() != new["stalled"].to_numpy()
    if differ.any():
        named = words.listed(old["filename"][differ].tolist())
        raise InputError(
            f"{first.labels} and {second.labels} label {int(differ.sum()):,} recordings "
            f"differently: {named}; compare with the same labels"
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
                bootstrap.interval(second_draws[name] - first_draws[name]),
                group.is_too_few,
            )
            for name in COMPARED
        ),
    )


def _figures(
    side: Evaluation, rows: pd.DataFrame, groups: NDArray[np.str_] | None
) -> tuple[Mapping[str, float | None], dict[str, Floats]]:
    """Return the values and the draws of one side on the shared rows.

    Those of the evaluation are reused where it has the same rows in the same order, drawn by the
    same groups: computing them takes half a minute for half a million rows.
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
