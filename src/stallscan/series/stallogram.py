"""The stall-o-gram: the state of each segment at each time point, and the stalls in it.

Definitions, as in the papers that docs/laboratory/series.md cites: the point prevalence is the mean
over time of the share of segments that are stalled, the incidence the share of segments that stall
at least once, and the cumulative duration the time that a segment is stalled in all.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stallscan import files
from stallscan.errors import InputError

UNKNOWN, FLOWING, STALLED = -1, 0, 1
States = NDArray[np.int8]
_CELLS = {UNKNOWN: "", FLOWING: "0", STALLED: "1"}


@dataclass(frozen=True)
class Stallogram:
    """Segments by time points.

    Attributes
    ----------
    names : tuple of str
        Of the R segments.
    states : ndarray
        int8 (R, T): `STALLED`, `FLOWING` or `UNKNOWN`.
    frame_s : float
        Time from one time point to the next, s.
    """

    names: tuple[str, ...]
    states: States
    frame_s: float

    def write(self, path: Path) -> None:
        """Write a table with a row for each segment and a column for each time point in s.

        Cells are 1 (stalled), 0 (flowing) or empty (unknown).
        """
        times = np.arange(self.states.shape[1]) * self.frame_s
        rows = (
            (name, *(_CELLS[state] for state in row))
            for name, row in zip(self.names, self.states.tolist(), strict=True)
        )
        files.write_rows(path, ("region", *(f"{time:.10g}" for time in times)), rows)


@dataclass(frozen=True)
class Stall:
    """One stall of a segment.

    Attributes
    ----------
    first, stop : int
        First time point, and the one after the last.
    points : int
        Time points that are seen stalled; fewer than `stop` - `first` if some are unknown.
    is_new : bool
        Whether the segment was seen flowing before.
    """

    first: int
    stop: int
    points: int
    is_new: bool


def find_stalls(states: States) -> list[Stall]:
    """Return the stalls of a segment, int8 (T,).

    Unknown time points between two stalled ones do not end a stall, and do not lengthen it.
    """
    known = np.flatnonzero(states != UNKNOWN)
    is_stalled = np.concatenate([[False], states[known] == STALLED, [False]])
    edges = np.flatnonzero(np.diff(is_stalled))
    return [
        Stall(int(known[first]), int(known[stop - 1]) + 1, int(stop - first), bool(first))
        for first, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


def drop_short(states: States, least: int) -> States:
    """Return states without stalls of fewer than `least` time points, int8 (T,).

    A short one counts as flowing if the segment is seen flowing before and after. Otherwise it may
    be a part of a longer one, and is unknown.
    """
    kept = states.copy()
    for stall in find_stalls(states):
        if stall.stop - stall.first >= least:
            continue
        is_whole = stall.is_new and (states[stall.stop :] == FLOWING).any()
        inside = kept[stall.first : stall.stop]
        inside[inside == STALLED] = FLOWING if is_whole else UNKNOWN
    return kept


def read_stallogram(path: str | Path) -> Stallogram:
    """Read a table that `Stallogram.write` wrote.

    Raises
    ------
    InputError
        If it is no such table.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        times = [float(time) for time in head[1:]]
        codes = {cell: state for state, cell in _CELLS.items()}
        states = [[codes[cell] for cell in row[1:]] for row in rows]
        array = np.array(states, np.int8).reshape(len(rows), len(times))
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{path}: is not a stall-o-gram. Give the stallogram.csv of a time series"
        ) from error
    frame_s = (times[-1] - times[0]) / max(len(times) - 1, 1) if times else 0.0
    return Stallogram(tuple(row[0] for row in rows), array, frame_s)
