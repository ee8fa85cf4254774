"""Find the stalls of a time series, and write its stall-o-gram and tables."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stallscan import files, runs
from stallscan.errors import InputError
from stallscan.recordings.find import are_simulated
from stallscan.recordings.raw import Stack
from stallscan.series import brightness, pattern, traces
from stallscan.series.pattern import Found
from stallscan.series.settings import SeriesSettings
from stallscan.series.stallogram import STALLED, UNKNOWN, Stallogram, drop_short
from stallscan.series.summary import (
    RATE_COLUMNS,
    SEGMENT_COLUMNS,
    SeriesRates,
    measure_rates,
    tabulate_rates,
    tabulate_segments,
)
from stallscan.vessels.regions import F64, Region, Regions, describe_regions
from stallscan.vessels.segment_files import LINES_NAME, write_lines

F32 = NDArray[np.float32]

# What a run writes; `report.stallogram` adds the picture.
STALLOGRAM_NAME, SEGMENTS_NAME = "stallogram.csv", "series.csv"
RATES_NAME, PICTURE_NAME = "rates.csv", "stallogram.png"
OUTPUTS = (runs.PREDICTIONS_NAME, STALLOGRAM_NAME, SEGMENTS_NAME, RATES_NAME, LINES_NAME)
NOT_SEEN = "no vessel is visible in the region"
SIMULATED = "The series is simulated."
NOTE = (
    "How well stalls are found was measured on simulated series only. The intervals are of the "
    "segments of this field, not of mice."
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SeriesResult:
    """The stalls of a series.

    Attributes
    ----------
    stallogram : Stallogram
        A row for each region.
    rates : SeriesRates
    shortest_s : float
        Median over the known segments of the shortest stall that would be found, s; NaN without.
    bad_frames : int
        Frames that are unknown in all segments: many vessels darken in them at once, or they cannot
        be decoded.
    remarks : tuple of str
        Of each region: why it is unknown, or what a person should know; may be empty.
    note : str
        What a person should know about the figures.
    """

    stallogram: Stallogram
    rates: SeriesRates
    shortest_s: float
    bad_frames: int
    remarks: tuple[str, ...]
    note: str


def check_settings(stack: Stack, settings: SeriesSettings) -> None:
    """Check that some segment can be known; this reads no frame.

    Raises
    ------
    InputError
        If the settings would leave all segments unknown.
    """
    assert stack.frame_s is not None  # `open_stack` refuses a time series without
    if settings.signal != "pattern":
        return
    frame_s, count = stack.frame_s, len(stack)
    least = count_frames(settings.least_s, frame_s)
    if pattern.FEWEST_FLOWING <= count < 2 * least:
        raise InputError(
            f"{stack.path}: lasts {count * frame_s:g} s, and stalls of at least "
            f"{settings.least_s:g} s are only found in a series that lasts twice as long. Give "
            f"--least-s at most {count // 2 * frame_s:.10g}"
        )
    fewest = max(least, 2)
    if fewest > _count_longest(settings, frame_s):
        raise InputError(
            f"{stack.path}: all segments would be unknown, because the shortest stall that can be "
            f"found in any lasts {fewest * frame_s:.10g} s, more than --visible-s "
            f"{settings.longest_visible_s(frame_s):g}. Give --visible-s at least "
            f"{fewest * frame_s:.10g}"
        )


def measure_series(
    stack: Stack,
    regions: Regions,
    mean: F32,
    out: str | Path,
    settings: SeriesSettings,
    progress: Progress = lambda _done, _of: None,
    lines: Sequence[F64] = (),
) -> SeriesResult:
    """Find the stalls in the regions of a time series, and write the tables into a folder.

    Parameters
    ----------
    stack : Stack
        From `raw.open_stack`, along time.
    regions : list
        From `region_files.read_regions`; names are unique.
    mean : ndarray
        float32 (H, W), from `traces.read_mean`.
    out : str or Path
        Folder for ``stallogram.csv``, ``series.csv``, ``rates.csv`` and ``series.json``.
    lines : sequence of ndarray
        Of the regions, if they were found: from `find.find_regions`, for ``centrelines.csv``.

    Raises
    ------
    InputError
        If `out` holds another run, or cannot be written; or as in `check_settings`.
    """
    check_settings(stack, settings)
    assert stack.frame_s is not None
    frame_s = stack.frame_s
    with runs.hold(out) as folder:
        about = _describe(stack, regions, settings)
        runs.claim(folder / runs.SERIES_NAME, about, "a series", OUTPUTS)
        if lines:
            write_lines(folder / LINES_NAME, lines)
        found, bad_frames = _find_all(stack, frame_s, regions, mean, settings, progress)
        least = count_frames(settings.least_s, frame_s)
        states = [drop_short(each.states, least) for each in found]
        names = tuple(region.name for region in regions)
        shape = len(names), len(stack)
        stallogram = Stallogram(names, np.array(states, np.int8).reshape(shape), frame_s)
        shortest_s = [max(each.shortest * frame_s, settings.least_s) for each in found]
        remarks = tuple(
            each.reason or getattr(region, "remark", "")
            for each, region in zip(found, regions, strict=True)
        )
        known = (stallogram.states != UNKNOWN).any(axis=1)
        typical = float(np.median(np.array(shortest_s)[known])) if known.any() else math.nan
        rates = measure_rates(stallogram)
        note = " ".join([SIMULATED] * are_simulated([stack.path]) + [NOTE])
        stallogram.write(folder / STALLOGRAM_NAME)
        segments = tabulate_segments(stallogram, shortest_s, remarks)
        files.write_rows(folder / SEGMENTS_NAME, SEGMENT_COLUMNS, segments)
        row = tabulate_rates(stack.name, stallogram, rates, typical, note)
        files.write_rows(folder / RATES_NAME, RATE_COLUMNS, [row])
    return SeriesResult(stallogram, rates, typical, bad_frames, remarks, note)


def calls_of(stallogram: Stallogram) -> list[str]:
    """Return for each region whether it stalls at least once, in the words of calls."""
    calls = []
    for states in stallogram.states:
        known = states[states != UNKNOWN]
        is_stalled = bool((known == STALLED).any())
        calls.append("stalled" if is_stalled else "flowing" if len(known) else "unscorable")
    return calls


def count_frames(least_s: float, frame_s: float) -> int:
    """Return the number of frames that a stall of `least_s` lasts, at least 1."""
    # Not 11 frames for 1 s of 0.1 s each, whose quotient is a little more than 10.
    return max(math.ceil(least_s / frame_s - 1e-6), 1)


def _count_longest(settings: SeriesSettings, frame_s: float) -> int:
    """Return the most frames that the shortest visible stall of a known segment may last."""
    return math.floor(settings.longest_visible_s(frame_s) / frame_s + 1e-6)


def _find_all(
    stack: Stack,
    frame_s: float,
    regions: Regions,
    mean: F32,
    settings: SeriesSettings,
    progress: Progress,
) -> tuple[list[Found], int]:
    """Return what is found in each region, and the number of bad frames."""
    square = traces.SquareStack(stack)
    mean, pixel_um = square.resize(mean), square.side_um
    unknown = np.full(len(stack), UNKNOWN, np.int8)
    found = [
        Found(unknown, math.inf, NOT_SEEN if isinstance(region, Region) else region.reason)
        for region in regions
    ]
    lines: dict[int, tuple[F32, float]] = {}
    for index, region in enumerate(regions):
        if isinstance(region, Region):
            line, tissue = traces.find_line(square.resize_region(region), mean, pixel_um)
            if line is not None:
                lines[index] = line, tissue
    is_pattern = settings.signal == "pattern"
    pairs = pattern.choose_pairs(len(stack)) if is_pattern else np.zeros(0, int)
    read, noise_lines = traces.read_traces(square, mean, list(lines.values()), pairs, progress)
    noise = pattern.measure_noise(noise_lines, pixel_um) if is_pattern else None
    least = count_frames(settings.least_s, frame_s)
    longest = _count_longest(settings, frame_s)
    bad = traces.find_bad_frames(read)
    for index, trace in zip(lines, read, strict=True):
        trace.values[bad] = np.nan
        if noise is None:
            found[index] = brightness.find_states(trace.values, trace.tissue)
        else:
            found[index] = pattern.find_states(
                trace.values, trace.tissue, noise, pixel_um, least, longest
            )
    return found, int(np.count_nonzero(bad))


def _describe(stack: Stack, regions: Regions, settings: SeriesSettings) -> dict[str, Any]:
    """Return what must be the same for a folder to be used again."""
    return {
        "series": stack.describe(),
        "regions": describe_regions(regions),
        "settings": settings.model_dump(mode="json"),
    }
