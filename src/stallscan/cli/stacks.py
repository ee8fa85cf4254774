"""The command for raw stacks: stack."""

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stallscan.cli.calling import print_summary
from stallscan.cli.terminal import (
    EXIT_FAILED_ROWS,
    FEW_SHOWN,
    Out,
    command,
    print_calls,
    print_line,
    say,
    show_progress,
)

if TYPE_CHECKING:
    from stallscan.recordings.raw import Stack
    from stallscan.scores.intervals import Share
    from stallscan.series.run import SeriesResult
    from stallscan.series.settings import SeriesSettings
    from stallscan.vessels.regions import Regions

# More regions than this share unknown are worth a sentence of their own.
MOST_UNKNOWN = 0.5


@command
def stack(
    stack: Path,
    /,
    *,
    out: Out,
    regions: Path | None = None,
    voxel_um: tuple[float, float, float] | None = None,
    frame_s: float | None = None,
    channel: str = "",
    time: int = 0,
    depth: int = 0,
    percentiles: tuple[float, float] = (5.0, 99.0),
    bundle: str = "default",
    prevalence: float | Literal["bundle"] | None = None,
    accuracy: Path | None = None,
    engine: Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"] = "auto",
    signal: Literal["pattern", "brightness"] | None = None,
    least_s: float | None = None,
    visible_s: float | None = None,
    strict: bool = False,
) -> None:
    """Call the vessels of a raw stack, or find when those of a time series at one depth stall.

    An interrupted run of a stack resumes where it left off. No model calls a time series: it gets
    a stall-o-gram (segments by time), point prevalence, incidence and durations.

    Example: stallscan stack field3.tif --voxel-um 1 0.8 0.8 -o field3

    Parameters
    ----------
    stack
        TIFF (OME, ImageJ, ScanImage, BigTIFF; 8 or 16 bits or floating point); with
        the extra bioformats also CZI, ND2, LIF and OME-Zarr.
    out
        Folder for predictions.csv and the other files of 'stallscan predict' (one row per region),
        rates.csv, overview.png, regions.csv, stack.json, and the clips in clips/. Of a time series:
        stallogram.csv, stallogram.png, series.csv, rates.csv, overview.png and series.json.
    regions
        The vessels: ImageJ ROIs (.roi, .zip), a label image (.tif, .npy), a table of boxes,
        polygons or centre lines (.csv), or centre lines (.swc). Without it, the capillary segments
        are found: of a z-stack as by 'stallscan segment', with its files in segments/; of a time
        series in the mean of its frames, written to centrelines.csv.
    voxel_um
        Distance of planes, rows and columns in um, if the file does not state it, or wrongly.
    frame_s
        Seconds from frame to frame, if the file does not state it, or wrongly.
    channel
        Name or number (from 1) of the channel that shows the vessels.
    time
        In a file with several times and depths: the time whose depths are read, from 1.
    depth
        In a file with several times and depths: the depth whose times are read, from 1.
    percentiles
        Percentiles of the stack's values that become grey levels 0 and 243, as in the training
        recordings.
    bundle
        Name of a shipped bundle, or the folder of a bundle or ensemble.
    prevalence
        Expected share of stalled vessels, for which scores are converted and the threshold is
        chosen; 'bundle' keeps those of the bundle. By default 0.02, as in Alzheimer's models.
    accuracy
        metrics.json of 'stallscan evaluate' for such stacks, to correct the stall rate for wrong
        calls.
    engine
        What runs the nets, as for 'stallscan predict'.
    signal
        Of a time series: 'pattern' (blood cells are visible; the default) or 'brightness' (moving
        blood is bright and standing blood dark, as in OCT angiograms).
    least_s
        Of a time series: seconds that a stall lasts at least (1).
    visible_s
        Of a time series: segments in which only longer stalls would be visible, in seconds, are
        unknown (30, or 10 frames if these take longer).
    strict
        Exit with code 1 if any region is unscorable, or unknown throughout a time series.
    """
    from stallscan.recordings.raw import StackSettings, open_stack
    from stallscan.series.settings import SeriesSettings

    given = {
        "voxel_um": voxel_um,
        "frame_s": frame_s,
        "channel": channel,
        "time": time,
        "depth": depth,
        "black_percentile": percentiles[0],
        "white_percentile": percentiles[1],
    }
    settings = StackSettings.parse(given, "stack")
    of_series = {"signal": signal, "least_s": least_s, "visible_s": visible_s}
    chosen = {name: value for name, value in of_series.items() if value is not None}
    of_calls = {
        "--bundle": bundle != "default",
        "--prevalence": prevalence is not None,
        "--accuracy": accuracy is not None,
        "--engine": engine != "auto",
    }
    with open_stack(stack, settings) as opened:
        if opened.axis == "time":
            _refuse(opened, of_calls, "no model calls a time series at one depth")
            unknown = _show_series(opened, regions, SeriesSettings.parse(chosen, "stack"), out)
        else:
            names = {f"--{name.replace('_', '-')}": name in chosen for name in of_series}
            _refuse(opened, names, "its frames are depths, not times")
            unknown = _call_stack(opened, regions, out, bundle, prevalence, accuracy, engine)
    if unknown and strict:
        sys.exit(EXIT_FAILED_ROWS)


def _refuse(stack: "Stack", options: dict[str, bool], why: str) -> None:
    """Refuse options that have no meaning for a stack; `options` says which were given."""
    from stallscan.errors import InputError
    from stallscan.words import enumerated

    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise InputError(f"{stack.path}: {why}. Leave out {enumerated(given)}")


def _call_stack(
    stack: "Stack",
    regions: Path | None,
    out: Path,
    bundle: str,
    prevalence: float | Literal["bundle"] | None,
    accuracy: Path | None,
    engine: Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"],
) -> int:
    """Call the regions of a z-stack, print the calls, and return how many are unscorable."""
    from stallscan.calls import stacks
    from stallscan.rates import field
    from stallscan.rates.correction import CallAccuracy
    from stallscan.words import counted, percent

    measured = None if accuracy is None else CallAccuracy.read(accuracy)
    given = stacks.PREVALENCE if prevalence is None else prevalence
    share = None if given == "bundle" else given
    found = _find_regions(stack, regions, out)
    with show_progress("cutting regions") as cutting, show_progress("predicting") as predicting:
        summary = stacks.predict_stack(
            stack,
            found,
            out,
            bundle,
            source="" if regions is None else regions.name,
            prevalence=share,
            engine=engine,
            cutting=cutting,
            predicting=predicting,
        )
    _write_overview(stack, found, out)
    rate = field.write_rate(summary.table, stack.name, out, measured)
    few = sum(summary.calls.values()) <= FEW_SHOWN
    if few:
        print_calls(summary.table)
    if scored := int(rate["scored"].item()):
        called = percent(float(rate["called_rate"].item()))
        expected = "" if share is None else f"; {percent(share)} expected"
        stalled = summary.calls.get("stalled", 0)
        regions_scored = counted(scored, "scored region")
        print_line(f"{stalled} of {regions_scored} called stalled ({called}{expected})")
        if rate["low"].notna().item():
            corrected, low, high = (percent(rate[name].item()) for name in ("rate", "low", "high"))
            print_line(f"corrected for wrong calls: {corrected} ({low} to {high})")
        if note := str(rate["note"].item()):
            say(note)
    print_summary(summary, say_remarks=not few)
    return summary.failed


def _show_series(
    stack: "Stack", regions: Path | None, settings: "SeriesSettings", out: Path
) -> int:
    """Find the stalls of a time series, print them, and return how many regions are unknown."""
    from stallscan.report.overview import write_overview
    from stallscan.report.stallogram import write_picture
    from stallscan.series import find, run, traces
    from stallscan.vessels.region_files import read_regions
    from stallscan.vessels.regions import Field, Region

    run.check_settings(stack, settings)  # before a minute of reading
    field = Field(stack.shape, stack.voxel_um)
    given = None if regions is None else read_regions(regions, field)
    with show_progress("averaging frames") as progress:
        mean = traces.read_mean(stack, progress)
    if given is None:
        found, lines = find.find_regions(stack.path, mean, field)
    else:
        found, lines = given, []
    with show_progress("finding stalls") as progress:
        result = run.measure_series(stack, found, mean, out, settings, progress, lines)
    simulated = "simulated time series " * result.note.startswith(run.SIMULATED)
    title = f"Stalls of {simulated}{stack.name}"
    write_picture(out / run.PICTURE_NAME, result.stallogram, title)
    called = [
        (region, call)
        for region, call in zip(found, run.calls_of(result.stallogram), strict=True)
        if isinstance(region, Region)
    ]
    write_overview(out / "overview.png", stack.grey(mean), called)
    _print_series(result, out)
    return result.rates.unknown


def _within(share: "Share", say: Callable[[float], str]) -> str:
    """Say a figure with its interval; a single segment has none."""
    value, low, high = map(say, share)
    return value if math.isnan(share.low) else f"{value} ({low} to {high})"


def _print_series(result: "SeriesResult", out: Path) -> None:
    from stallscan.words import counted, percent, say_time

    rates = result.rates
    frames, segments = result.stallogram.states.shape[1], counted(rates.segments, "segment")
    every = f"{counted(frames, 'time point')}, one every {result.stallogram.frame_s:g} s"
    print_line(f"time series at one depth: {segments}, {every} (no stall rate of a z-stack)")
    if rates.segments:
        prevalence, incidence = (
            _within(each, percent) for each in (rates.prevalence, rates.incidence)
        )
        print_line(f"point prevalence: {prevalence} of segments at a time")
        print_line(f"incidence: {incidence} of segments stall at least once")
        per_min = _within(rates.new_per_min, "{:.3g}".format)
        print_line(f"new stalls: {per_min} per segment and minute")
        if rates.cumulative_s.value > 0:
            lasting = say_time(float(rates.cumulative_s.value))
            print_line(f"cumulative duration: {lasting} on average in segments that stall")
        shortest = f"{result.shortest_s:.3g} s"
        print_line(f"in half of these segments, a stall must last at least {shortest} to be found")
        # benchmarks/series.md
        say(
            "on simulated series, a quarter to two thirds of the point prevalence was missed. Take "
            "these figures for lower bounds"
        )
    if rates.unknown:
        regions = rates.unknown + rates.segments
        what = f"{rates.unknown} of {counted(regions, 'region')} unknown throughout"
        few = rates.segments and rates.unknown / regions > MOST_UNKNOWN
        say(
            f"{what}; series.csv says why. They count in no figure"
            + f". All figures come from the other {rates.segments} alone" * bool(few)
        )
    if result.bad_frames and rates.segments:
        say(
            f"{result.bad_frames} of {counted(frames, 'time point')} unknown in all segments (grey "
            "columns in stallogram.png): many vessels darken in these frames at once, as when the "
            "sample moves, or they cannot be decoded"
        )
    say(result.note)
    print_line(f"-> {out}")


def _find_regions(stack: "Stack", given: Path | None, out: Path) -> "Regions":
    """Return the regions of a file, or around the segments that are found if there is none."""
    from stallscan.calls.stacks import SEGMENTS_NAME, field_of
    from stallscan.cli.segmenting import find_segments
    from stallscan.errors import InputError
    from stallscan.vessels.region_files import read_regions
    from stallscan.vessels.regions import outline_lines
    from stallscan.vessels.segment import SegmentSettings

    field = field_of(stack)
    if given is not None:
        return read_regions(given, field)
    found = find_segments(stack, SegmentSettings(), out / SEGMENTS_NAME).capillaries
    if not found:
        raise InputError(
            f"{stack.path}: no capillary segments were found in it. See "
            f"{out / SEGMENTS_NAME}, and outline the vessels yourself (--regions)"
        )
    return outline_lines([each.line for each in found], field)


def _write_overview(stack: "Stack", regions: "Regions", out: Path) -> None:
    from stallscan.clips.regions import sources_of
    from stallscan.report.overview import write_overview
    from stallscan.vessels.regions import Region

    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        calls = {row["filename"]: row["call"] for row in csv.DictReader(file)}
    called = [
        (region, calls[source.filename])
        for source, region in zip(sources_of(stack.path, regions), regions, strict=True)
        if isinstance(region, Region)
    ]
    write_overview(out / "overview.png", stack.brightest, called)
