"""How often and how long segments stall: of each segment, and of the whole series."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stallscan.scores.bootstrap import BOOTSTRAP_SEED, interval
from stallscan.scores.intervals import TAILS, Share, wilson
from stallscan.scores.resample import draw_weights
from stallscan.series.stallogram import STALLED, UNKNOWN, Stallogram, find_stalls

F64 = NDArray[np.float64]

SEGMENT_COLUMNS = (
    *("region", "stalls", "new_stalls", "cumulative_s", "stalled_share", "longest_s"),
    *("first_start_s", "observed_s", "shortest_visible_s", "remark"),
)
RATE_COLUMNS = (
    *("field", "recording", "segments", "unknown_segments", "frames", "frame_s", "observed_min"),
    *("point_prevalence", "point_prevalence_low", "point_prevalence_high"),
    *("incidence", "incidence_low", "incidence_high"),
    *("new_stalls", "new_stalls_per_min", "new_stalls_per_min_low", "new_stalls_per_min_high"),
    *("cumulative_s", "cumulative_s_low", "cumulative_s_high", "shortest_visible_s", "note"),
)
# In the column recording, so that no table of z-stacks is taken for one of time series.
RECORDING = "time series"


@dataclass(frozen=True)
class SegmentStalls:
    """The stalls of one segment.

    Attributes
    ----------
    stalls, new_stalls : int
        All stalls, and those before which the segment was seen flowing.
    cumulative_s, longest_s : float
        Stalled time in all, and in the longest stall.
    first_start_s : float or None
        Time of the first stalled time point; 0 if it is stalled from the start.
    observed_s : float
        Time in which its state is known.
    """

    stalls: int
    new_stalls: int
    cumulative_s: float
    longest_s: float
    first_start_s: float | None
    observed_s: float


@dataclass(frozen=True)
class SeriesRates:
    """The figures of a whole series; intervals are of 95 %, NaN where there is none.

    Attributes
    ----------
    segments, unknown : int
        Segments whose state is known at some time, and the others.
    observed_min : float
        Minutes that the segments were observed, added up.
    prevalence : Share
        Mean over time of the share of segments that are stalled.
    incidence : Share
        Share of segments that stall at least once.
    new_stalls : int
    new_per_min : Share
        New stalls per segment and minute of observation.
    cumulative_s : Share
        Mean stalled time of the segments that stall at least once.
    """

    segments: int
    unknown: int
    observed_min: float
    prevalence: Share
    incidence: Share
    new_stalls: int
    new_per_min: Share
    cumulative_s: Share


def measure_segments(stallogram: Stallogram) -> list[SegmentStalls]:
    """Measure the stalls of each segment."""
    frame_s = stallogram.frame_s
    measured = []
    for states in stallogram.states:
        stalls = find_stalls(states)
        durations = [stall.points * frame_s for stall in stalls]
        measured.append(
            SegmentStalls(
                len(stalls),
                sum(stall.is_new for stall in stalls),
                math.fsum(durations),
                max(durations, default=0.0),
                stalls[0].first * frame_s if stalls else None,
                float(np.count_nonzero(states != UNKNOWN)) * frame_s,
            )
        )
    return measured


def measure_rates(stallogram: Stallogram) -> SeriesRates:
    """Measure prevalence, incidence and durations, with intervals.

    The intervals are bootstraps over segments (that of the incidence is Wilson's), which knows
    nothing of differences between fields and mice. Without any stall, the upper ends follow from
    the incidence, and from the Poisson distribution of new stalls.
    """
    known = (stallogram.states != UNKNOWN).any(axis=1)
    states = stallogram.states[known]
    measured = measure_segments(Stallogram((), states, stallogram.frame_s))
    count = len(measured)
    nothing = Share(math.nan, math.nan, math.nan)
    if not count:
        return SeriesRates(0, len(known), 0.0, nothing, nothing, 0, nothing, nothing)
    is_stalled, is_known = states == STALLED, states != UNKNOWN
    new = np.array([each.new_stalls for each in measured], float)
    minutes = np.array([each.observed_s for each in measured]) / 60
    cumulative_s = np.array([each.cumulative_s for each in measured])
    incidence = wilson(np.count_nonzero(cumulative_s), count)
    prevalence = _bootstrap(count, lambda weights: _prevalence(is_stalled, is_known, weights))
    per_min = _bootstrap(count, lambda weights: (new @ weights) / (minutes @ weights))
    if not cumulative_s.any():
        prevalence = Share(0.0, 0.0, float(incidence.high))
    if not new.any():
        # The largest rate at which no stall at all has a chance of 2.5 %.
        per_min = Share(0.0, 0.0, -math.log(TAILS[0]) / float(minutes.sum()))
    stalling = cumulative_s[cumulative_s > 0]
    lasting = nothing
    if len(stalling):
        lasting = _bootstrap(
            len(stalling), lambda weights: (stalling @ weights) / weights.sum(axis=0)
        )
    return SeriesRates(
        segments=count,
        unknown=int(np.count_nonzero(~known)),
        observed_min=float(minutes.sum()),
        prevalence=prevalence,
        incidence=incidence,
        new_stalls=int(new.sum()),
        new_per_min=per_min,
        cumulative_s=lasting,
    )


def _prevalence(is_stalled: NDArray[np.bool_], is_known: NDArray[np.bool_], weights: F64) -> F64:
    """Return the point prevalence of drawn segments, (D,); both tables are bool (R, T)."""
    stalled, known = (table.T.astype(np.float64) for table in (is_stalled, is_known))
    drawn = []
    for some in np.array_split(weights, max(weights.shape[1] // 100, 1), axis=1):
        number = known @ some  # (T, d)
        with np.errstate(invalid="ignore"):
            share = (stalled @ some) / number
        drawn.append(np.nansum(share, axis=0) / np.maximum((number > 0).sum(axis=0), 1))
    return np.concatenate(drawn)


def _bootstrap(count: int, measure: Callable[[F64], F64]) -> Share:
    """Return a figure of `count` segments with its interval; NaN without one."""
    value = float(measure(np.ones((count, 1)))[0])
    if count == 1:
        return Share(value, math.nan, math.nan)
    draws = np.concatenate(
        [measure(weights) for weights in draw_weights([np.arange(count)], BOOTSTRAP_SEED)]
    )
    found = interval(draws)
    return Share(value, math.nan, math.nan) if found is None else Share(value, *found[:2])


def tabulate_segments(
    stallogram: Stallogram, shortest_s: Sequence[float], remarks: Sequence[str]
) -> Iterator[Sequence[object]]:
    """Yield the rows of the table of segments, with `SEGMENT_COLUMNS`."""
    for name, each, shortest, remark in zip(
        stallogram.names, measure_segments(stallogram), shortest_s, remarks, strict=True
    ):
        if not each.observed_s:
            yield [name, *[""] * 6, 0, _cell(shortest), remark]
            continue
        numbers = (each.cumulative_s, each.cumulative_s / each.observed_s, each.longest_s)
        times = (each.first_start_s, each.observed_s, shortest)
        counts = each.stalls, each.new_stalls
        yield [name, *counts, *map(_cell, numbers), *map(_cell, times), remark]


def tabulate_rates(
    field: str, stallogram: Stallogram, rates: SeriesRates, shortest_s: float, note: str
) -> list[object]:
    """Return the figures of a series, a row with `RATE_COLUMNS`."""
    shares = (rates.prevalence, rates.incidence)
    row: list[object] = [field, RECORDING, rates.segments, rates.unknown]
    row += [stallogram.states.shape[1], _cell(stallogram.frame_s), _cell(rates.observed_min)]
    row += [_cell(number) for share in shares for number in share]
    row += [rates.new_stalls, *map(_cell, rates.new_per_min), *map(_cell, rates.cumulative_s)]
    return [*row, _cell(shortest_s), note]


def _cell(number: float | None) -> str:
    return "" if number is None or not math.isfinite(number) else f"{float(number):.6g}"
