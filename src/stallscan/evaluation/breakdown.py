"""Recordings in groups and parts, by the columns of all tables that say something about them."""

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

# Columns that are broken down by if no other is named; `FRAMES` is binned.
FRAMES = "frames"
BY = ("project_id", "project", "kind", "motion", "difficulty", FRAMES)
# The quartiles of the real recordings (docs/facts.md 4), and a bound for the long ones.
FRAME_BOUNDS = (49, 56, 66, 100)
# Chosen: a table of more lines is none to read.
MOST_PARTS = 40
NOT_SAID = "(not said)"


@dataclass(frozen=True)
class Group:
    """What was drawn together for the intervals.

    Attributes
    ----------
    column : str
        The column that names it; empty: each recording by itself.
    count : int
        How many there are among the evaluated recordings.
    """

    column: str
    count: int

    @classmethod
    def of(cls, groups: "pd.Series[str]") -> "Group":
        """Count the groups of the evaluated recordings, named by their column."""
        return cls(str(groups.name), groups.nunique())

    @property
    def is_too_few(self) -> bool:
        """Whether intervals of so few are not to be trusted."""
        return bool(self.column) and self.count < bootstrap.FEWEST_GROUPS


@dataclass(frozen=True)
class Part:
    """The evaluated recordings that have one value in the column that is broken down by.

    Attributes
    ----------
    name : str
        The value.
    count, stalled : int
        Recordings, and how many are labelled stalled.
    recall, specificity, mcc : float or None
        None where a class is missing. MCC is re-weighted to the prevalence of all evaluated
        recordings: at their own ones the parts could not be compared.
    intervals : dict
        95 % interval of each of the three.
    by_group : bool
        Whether the intervals were drawn by group: only where the part has enough of them.
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
    """The parts that one column divides the evaluated recordings into."""

    column: str
    parts: tuple[Part, ...]


class TextTable(NamedTuple):
    """A file and all its cells as text, as `predictions.as_frame` gives them."""

    path: Path
    cells: pd.DataFrame


class RecordingFacts:
    """What the tables say about the recordings besides calls and labels, looked up by column.

    Parameters
    ----------
    table : DataFrame
        The predictions with their labels, as `evaluate.join` gives them.
    predictions, labels : TextTable
        The two tables that were joined.
    about : sequence of Path
        Tables with a column filename and more.

    Raises
    ------
    InputError
        If a table about the recordings is missing or knows none of them.
    TableError
        If it has no column filename, or names a recording twice.
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
        # Each with the name that every recording has in it.
        self._sources: list[tuple[Path, pd.DataFrame, pd.Series[str]]] = [
            (*predictions, table["filename"]),
            (*labels, table["label_filename"]),
        ]
        for path in about:
            more = read_text(path, "a table about the recordings")
            if "filename" not in more:
                raise TableError(
                    f"{path}: column filename is missing; it must name the recordings that the "
                    "other columns are about"
                )
            refuse_twice(path, more)
            partner = match(table["filename"], more["filename"], path)
            if partner.isna().all():
                differ = names.contrast(table["filename"].tolist(), more["filename"].tolist())
                raise InputError(
                    f"{path}: has no filename in common with the predictions ({differ}); give a "
                    "table of these recordings"
                )
            self._sources.append((path, more, partner))

    @property
    def columns(self) -> list[str]:
        """Names of all columns there are."""
        named = [str(column) for _, source, _ in self._sources for column in source]
        return sorted({FRAMES, *named} - {"filename", "stalled"})

    def column(self, name: str) -> "pd.Series[str] | None":
        """Look a column up: a text for each row of the table, empty where nothing is said."""
        name = name.lower()  # as all headers are read
        if name not in self._columns:
            self._columns[name] = self._look_up(name)
        return self._columns[name]

    def _look_up(self, name: str) -> "pd.Series[str] | None":
        for path, source, partner in reversed(self._sources):
            if name in source:
                said = source if name == "filename" else source[["filename", name]]
                said = said.drop_duplicates()
                if (twice := said["filename"].duplicated(keep=False)).any():
                    refuse(path, said, twice, name, "one value for each filename")
                values = pd.Series(said[name].to_numpy(), index=said["filename"])
                found: pd.Series[str] = partner.map(values).fillna("").rename(name)
                return found
        return None

    def path_of(self, name: str) -> Path:
        """Return the table that a column is of."""
        return next((path for path, source, _ in reversed(self._sources) if name in source))

    def frames(self) -> "pd.Series[str] | None":
        """Bin the frames that decoded, or else those that a table of recordings says."""
        frames: pd.Series[float] = self.table["frames"]
        for name in ("num_frames", FRAMES):
            column = self.column(name)
            if frames.isna().all() and column is not None:
                frames = pd.to_numeric(column, errors="coerce")
        if frames.isna().all():
            return None
        bounds = FRAME_BOUNDS
        words = [
            f"up to {bounds[0]}",
            *(f"{low + 1} to {high}" for low, high in itertools.pairwise(bounds)),
            f"over {bounds[-1]}",
        ]
        binned = np.array([*words, ""])[
            np.where(frames.isna(), len(words), np.searchsorted(bounds, frames, "left"))
        ]
        return pd.Series(binned, frames.index, name=FRAMES)


def find_groups(
    known: RecordingFacts, decided: pd.DataFrame, wanted: str | None
) -> "pd.Series[str] | None":
    """Find what the evaluated recordings are drawn by; None: each by itself.

    Parameters
    ----------
    known : RecordingFacts
        Where it is looked for.
    decided : DataFrame
        The evaluated recordings.
    wanted : str or None
        The column; None takes the first of `groups.MOUSE_COLUMNS` that has two values, empty takes
        none.

    Raises
    ------
    InputError
        If there is no such column, or it has one value only.
    TableError
        If it is empty for an evaluated recording, or names one mouse in two ways.
    """

    def cells(name: str) -> list[str] | None:
        column = known.column(name)
        return None if column is None else column.loc[decided.index].tolist()

    name = groups.find_column(cells, fewest=2) if wanted is None else wanted.lower()
    if not name:
        return None
    found = cells(name)
    if found is None:
        raise InputError(_no_column(known, name, "--group"))
    checked = groups.check_cells(
        known.path_of(name),
        name,
        found,
        decided["filename"].tolist(),
        "fill it in, give another column with --group, or none with --group ''",
    )
    units = pd.Series(checked, decided.index, name=name)
    if units.nunique() < 2:
        raise InputError(
            f"column {name} is {checked[0]} for all evaluated recordings: intervals cannot be "
            "drawn by one group; give another column with --group, or --group '' to draw single "
            "recordings"
        )
    return units


def break_down(
    known: RecordingFacts,
    decided: pd.DataFrame,
    scored: Scored,
    groups: "NDArray[np.str_] | None",
    wanted: Sequence[str] | None,
) -> tuple[Breakdown, ...]:
    """Divide the evaluated recordings by columns, and measure each part.

    Parameters
    ----------
    known : RecordingFacts
        Where the columns are looked for.
    decided, scored : DataFrame, Scored
        The evaluated recordings, in one order.
    groups : ndarray or None
        (N,), what they are drawn by for the intervals; None: each by itself.
    wanted : sequence of str or None
        The columns; None takes those of `BY` that there are and that have 2 to `MOST_PARTS` values.

    Raises
    ------
    InputError
        If there is no such column, or it has more than `MOST_PARTS` values.
    """
    made = []
    for name in BY if wanted is None else dict.fromkeys(wanted):
        column = known.frames() if name == FRAMES else known.column(name)
        if column is None:
            if wanted is None:
                continue
            if name == FRAMES:
                raise InputError(
                    "no table says how many frames the recordings have (columns frames and "
                    "num_frames are missing or empty); give one that does with --about, or leave "
                    f"out --by {FRAMES}"
                )
            raise InputError(_no_column(known, name, "--by"))
        values = column.loc[decided.index].replace("", NOT_SAID)
        count = values.nunique()
        if wanted is None and not 1 < count <= MOST_PARTS:
            continue
        if count > MOST_PARTS:
            raise InputError(
                f"column {name} has {count:,} different values; a breakdown has at most "
                f"{MOST_PARTS}, name another column with --by"
            )
        made.append(Breakdown(name, _parts(values, scored, groups)))
    return tuple(made)


def _parts(
    values: "pd.Series[str]", scored: Scored, groups: "NDArray[np.str_] | None"
) -> tuple[Part, ...]:
    prevalence = float(scored.labels.mean())
    names = values.to_numpy(str)
    return tuple(
        _part(
            str(name),
            Scored(scored.labels[rows], scored.scores[rows], scored.calls[rows]),
            None if groups is None else groups[rows],
            prevalence,
        )
        for name in sorted(set(names), key=_reading_order)
        for rows in [names == name]
    )


def _part(name: str, scored: Scored, groups: "NDArray[np.str_] | None", prevalence: float) -> Part:
    cells = metrics.count(scored)
    by_group = groups is not None and len(set(groups)) >= bootstrap.FEWEST_GROUPS
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
    """Sort numbers by size and bins of frames by their bounds, both before other words."""
    first = name.removeprefix("up to ").removeprefix("over ").partition(" ")[0]
    try:
        return 0, float(first) + (0.5 if name.startswith("over ") else 0.0), name
    except ValueError:
        return 1 + (name == NOT_SAID), 0.0, name


def _no_column(known: RecordingFacts, name: str, option: str) -> str:
    return (
        f"there is no column {name} in the predictions, the labels or what was given with --about; "
        f"the columns are {', '.join(known.columns)}: name one of them with {option}"
    )
