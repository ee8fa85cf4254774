"""Breakdowns of an evaluation by any column of the tables, and the groups for the intervals."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stallscan.calls.predictions import read_text, refuse, refuse_twice
from stallscan.catalog import groups, names
from stallscan.catalog.names import match
from stallscan.errors import InputError, TableError
from stallscan.scores import bootstrap, metrics
from stallscan.scores.metrics import Interval, Scored

# Columns to break down by unless others are named. `FRAMES` is binned.
FRAMES = "frames"
BY = ("project_id", "project", "kind", "motion", "difficulty", FRAMES)
# Upper bounds of the bins: quartiles of the real recordings (docs/facts.md 4), and 100 to separate
# the long ones.
FRAME_BOUNDS = (49, 56, 66, 100)
# Chosen: nobody reads a longer table.
MOST_PARTS = 40
NOT_GIVEN = "(not given)"


@dataclass(frozen=True)
class Group:
    """The unit that the bootstrap resamples for the intervals.

    Attributes
    ----------
    column : str
        The column that names the groups; empty if single recordings are resampled.
    count : int
        Number of groups, or of recordings, that were evaluated.
    """

    column: str
    count: int

    @classmethod
    def of(cls, groups: "pd.Series[str]") -> "Group":
        """Count the groups in a column of the evaluated recordings."""
        return cls(str(groups.name), groups.nunique())

    @property
    def is_too_few(self) -> bool:
        """Whether there are too few groups for reliable intervals."""
        return bool(self.column) and self.count < bootstrap.FEWEST_GROUPS


@dataclass(frozen=True)
class Part:
    """The subset of the evaluated recordings that share one value of a column.

    Attributes
    ----------
    name : str
        The value.
    count, stalled : int
        Recordings in the subset, and how many of them are labelled stalled.
    recall, specificity, mcc : float or None
        None where a class is missing. MCC is re-weighted to the prevalence of all evaluated
        recordings, because MCCs at different prevalences are not comparable.
    intervals : dict
        95 % interval of each of the three.
    by_group : bool
        Whether whole groups were resampled; only where the subset has enough of them.
    """

    name: str
    count: int
    stalled: int
    recall: float | None
    specificity: float | None
    mcc: float | None
    intervals: dict[str, Interval | None]
    by_group: bool


@dataclass(frozen=True)
class Breakdown:
    """The evaluated recordings split by the values of one column."""

    column: str
    parts: tuple[Part, ...]


class TextTable(NamedTuple):
    """A file and all its cells as text, from `predictions.as_frame`."""

    path: Path
    cells: pd.DataFrame


class RecordingFacts:
    """All columns that describe the recordings, from whichever table has them.

    Parameters
    ----------
    table : DataFrame
        The predictions with their labels, from `rows.join`.
    predictions, labels : TextTable
        The two tables that were joined.
    about : sequence of Path
        More tables that describe the recordings, each with a column filename.

    Raises
    ------
    InputError
        If a table in `about` is missing, has none of the recordings, or is malformed (TableError).
    """

    def __init__(
        self,
        table: pd.DataFrame,
        predictions: TextTable,
        labels: TextTable,
        about: Sequence[Path],
    ) -> None:
        self.table, self.about = table, about
        self._columns: dict[str, pd.Series[str] | None] = {}
        # Each table with the filename it uses for every recording.
        self._sources: list[tuple[Path, pd.DataFrame, pd.Series[str]]] = [
            (*predictions, table["filename"]),
            (*labels, table["label_filename"]),
        ]
        for path in about:
            more = read_text(path, "a table about the recordings")
            if "filename" not in more:
                raise TableError(
                    f"{path}: column filename is missing. It must name the recordings that the "
                    "other columns describe"
                )
            refuse_twice(path, more)
            partner = match(table["filename"], more["filename"], path)
            if partner.isna().all():
                differ = names.contrast(table["filename"].tolist(), more["filename"].tolist())
                raise InputError(
                    f"{path}: has no filename in common with the predictions ({differ}). Give a "
                    "table about the same recordings"
                )
            self._sources.append((path, more, partner))

    @property
    def columns(self) -> list[str]:
        """Names of all available columns."""
        named = [str(column) for _, source, _ in self._sources for column in source]
        return sorted({FRAMES, *named} - {"filename", "stalled"})

    def column(self, name: str) -> "pd.Series[str] | None":
        """Return a column for the rows of the table, with empty cells where it has no value.

        Later tables take precedence. None if no table has the column.
        """
        name = name.lower()  # headers are read in lower case
        if name not in self._columns:
            self._columns[name] = self._look_up(name)
        return self._columns[name]

    def _look_up(self, name: str) -> "pd.Series[str] | None":
        for path, source, partner in reversed(self._sources):
            if name in source:
                cells = source if name == "filename" else source[["filename", name]]
                cells = cells.drop_duplicates()
                if (twice := cells["filename"].duplicated(keep=False)).any():
                    refuse(path, cells, twice, name, "one value for each filename")
                values = pd.Series(cells[name].to_numpy(), index=cells["filename"])
                column: pd.Series[str] = partner.map(values).fillna("").rename(name)
                return column
        return None

    def path_of(self, name: str) -> Path:
        """Return the file of the table that `column` takes a column from."""
        return next((path for path, source, _ in reversed(self._sources) if name in source))

    def frames(self) -> "pd.Series[str] | None":
        """Bin the number of decoded frames or, if unknown, the number that a table declares."""
        frames: pd.Series[float] = self.table["frames"]
        for name in ("num_frames", FRAMES):
            column = self.column(name)
            if frames.isna().all() and column is not None:
                frames = pd.to_numeric(column, errors="coerce")
        if frames.isna().all():
            return None
        bounds = FRAME_BOUNDS
        bins = [
            f"up to {bounds[0]}",
            *(f"{low + 1} to {high}" for low, high in itertools.pairwise(bounds)),
            f"over {bounds[-1]}",
        ]
        # (N,), a bin for each recording; the last name, "", is for unknown lengths.
        binned = np.array([*bins, ""])[
            np.where(frames.isna(), len(bins), np.searchsorted(bounds, frames, "left"))
        ]
        return pd.Series(binned, frames.index, name=FRAMES)


def find_groups(
    facts: RecordingFacts, decided: pd.DataFrame, wanted: str | None
) -> "pd.Series[str] | None":
    """Find the groups of recordings to resample for the intervals; None for single recordings.

    Parameters
    ----------
    facts : RecordingFacts
        The columns to choose from.
    decided : DataFrame
        The evaluated recordings.
    wanted : str or None
        The column. By default the first of `groups.MOUSE_COLUMNS` with at least two values. Empty
        for single recordings.

    Raises
    ------
    InputError
        If the column does not exist or has only one value.
    TableError
        If it is empty for an evaluated recording, or spells one mouse in two ways.
    """

    def cells(name: str) -> list[str] | None:
        column = facts.column(name)
        return None if column is None else column.loc[decided.index].tolist()

    name = groups.find_column(cells, fewest=2) if wanted is None else wanted.lower()
    if not name:
        return None
    named = cells(name)
    if named is None:
        raise InputError(_no_column(facts, name, "--group"))
    checked = groups.check_cells(
        facts.path_of(name),
        name,
        named,
        decided["filename"].tolist(),
        "fill it in, choose another column with --group, or none with --group ''",
    )
    units = pd.Series(checked, decided.index, name=name)
    if units.nunique() < 2:
        raise InputError(
            f"column {name} is {checked[0]} for all evaluated recordings, but intervals need at "
            "least two groups. Choose another column with --group, or resample single recordings "
            "with --group ''"
        )
    return units


def break_down(
    facts: RecordingFacts,
    decided: pd.DataFrame,
    scored: Scored,
    groups: "NDArray[np.str_] | None",
    wanted: Sequence[str] | None,
) -> tuple[Breakdown, ...]:
    """Split the evaluated recordings by columns, and measure each subset.

    Parameters
    ----------
    facts : RecordingFacts
        The columns to choose from.
    decided, scored : DataFrame, Scored
        The evaluated recordings, in the same order.
    groups : ndarray or None
        str (N,), the groups to resample for the intervals; None for single recordings.
    wanted : sequence of str or None
        The columns. By default those of `BY` that exist and have 2 to `MOST_PARTS` values.

    Raises
    ------
    InputError
        If a column in `wanted` does not exist or has more than `MOST_PARTS` values.
    """
    breakdowns = []
    for name in BY if wanted is None else dict.fromkeys(wanted):
        column = facts.frames() if name == FRAMES else facts.column(name)
        if column is None:
            if wanted is None:
                continue
            if name == FRAMES:
                raise InputError(
                    "the number of frames is unknown: columns frames and num_frames are missing "
                    f"or empty. Give a table that has one with --about, or leave out --by {FRAMES}"
                )
            raise InputError(_no_column(facts, name, "--by"))
        values = column.loc[decided.index].replace("", NOT_GIVEN)
        count = values.nunique()
        if wanted is None and not 1 < count <= MOST_PARTS:
            continue
        if count > MOST_PARTS:
            raise InputError(
                f"column {name} has {count:,} different values, but a breakdown has at most "
                f"{MOST_PARTS}. Choose another column with --by"
            )
        breakdowns.append(Breakdown(name, _parts(values, scored, groups)))
    return tuple(breakdowns)


def _parts(
    values: "pd.Series[str]", scored: Scored, groups: "NDArray[np.str_] | None"
) -> tuple[Part, ...]:
    prevalence = float(scored.labels.mean())
    names = values.to_numpy(str)  # (N,)
    return tuple(
        _part(
            str(name),
            Scored(scored.labels[rows], scored.scores[rows], scored.calls[rows]),
            None if groups is None else groups[rows],
            prevalence,
        )
        for name in sorted(set(names), key=_reading_order)
        for rows in [names == name]  # bool (N,)
    )


def _part(name: str, scored: Scored, groups: "NDArray[np.str_] | None", prevalence: float) -> Part:
    cells = metrics.count(scored)
    by_group = groups is not None and len(set(groups)) >= bootstrap.FEWEST_GROUPS
    # Recall and specificity in each draw, (D,) each.
    rates = (
        bootstrap.group_rates(scored, groups)
        if groups is not None and by_group
        else bootstrap.smoothed_rates(cells)
    )
    recall = cells.true_stalled / cells.stalled if cells.stalled else None
    specificity = cells.true_flowing / cells.flowing if cells.flowing else None
    mcc = (
        None
        if recall is None or specificity is None
        else float(metrics.reweighted_mcc(recall, specificity, prevalence))
    )
    draws = bootstrap.of_rates(rates, prevalence)
    return Part(
        name=name,
        count=len(scored.labels),
        stalled=cells.stalled,
        recall=recall,
        specificity=specificity,
        mcc=mcc,
        intervals={
            "recall": bootstrap.interval(draws["recall"]),
            "specificity": bootstrap.interval(draws["specificity"]),
            "mcc": None if mcc is None else bootstrap.interval(draws["mcc"]),
        },
        by_group=by_group,
    )


def _reading_order(name: str) -> tuple[int, float, str]:
    """Return a sort key: numbers by size, bins of frames by their bounds, then other words."""
    first = name.removeprefix("up to ").removeprefix("over ").partition(" ")[0]
    try:
        return 0, float(first) + (0.5 if name.startswith("over ") else 0.0), name
    except ValueError:
        return 1 + (name == NOT_GIVEN), 0.0, name


def _no_column(facts: RecordingFacts, name: str, option: str) -> str:
    return (
        f"there is no column {name} in the predictions, the labels or the tables given with "
        f"--about; the columns are {', '.join(facts.columns)}. Choose one of them with {option}"
    )
