"""The command for raw stacks: stack."""

import csv
import sys
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
    from stallscan.vessels.regions import Regions


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
    prevalence: float | Literal["bundle"] = 0.02,
    accuracy: Path | None = None,
    engine: Literal["auto", "torch", "openvino", "openvino-bf16", "openvino-int8"] = "auto",
    strict: bool = False,
) -> None:
    """Call the vessels of a raw stack, without outlined recordings.

    An interrupted run resumes where it left off.

    Example: stallscan stack field3.tif --voxel-um 1 0.8 0.8 -o field3

    Parameters
    ----------
    stack
        TIFF (OME, ImageJ, ScanImage, BigTIFF; 8 or 16 bits or floating point); with
        stallscan[bioformats] also CZI, ND2, LIF and OME-Zarr.
    out
        Folder for predictions.csv and the other files of 'stallscan predict' (one row per region),
        rates.csv, overview.png, regions.csv, stack.json, and the clips in clips/.
    regions
        The vessels: ImageJ ROIs (.roi, .zip), a label image (.tif, .npy), a table of boxes,
        polygons or centre lines (.csv), or centre lines (.swc). Without it, the capillary segments
        of a z-stack are found as by 'stallscan segment'; their files are in segments/.
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
    strict
        Exit with code 1 if any region is unscorable.
    """
    from stallscan.calls import stacks
    from stallscan.rates import field
    from stallscan.rates.correction import CallAccuracy
    from stallscan.recordings.raw import StackSettings, open_stack
    from stallscan.words import counted, percent

    given = {
        "voxel_um": voxel_um,
        "frame_s": frame_s,
        "channel": channel,
        "along": "depth" if regions is None else "",
        "time": time,
        "depth": depth,
        "black_percentile": percentiles[0],
        "white_percentile": percentiles[1],
    }
    settings = StackSettings.parse(given, "stack")
    measured = None if accuracy is None else CallAccuracy.read(accuracy)
    with open_stack(stack, settings) as opened:
        found = _find_regions(opened, regions, out)
        with show_progress("cutting regions") as cutting, show_progress("predicting") as predicting:
            summary = stacks.predict_stack(
                opened,
                found,
                out,
                bundle,
                source="" if regions is None else regions.name,
                prevalence=None if prevalence == "bundle" else prevalence,
                engine=engine,
                cutting=cutting,
                predicting=predicting,
            )
        _write_overview(opened, found, out)
    rate = field.write_rate(summary.table, stack.name, out, measured)
    few = sum(summary.calls.values()) <= FEW_SHOWN
    if few:
        print_calls(summary.table)
    if scored := int(rate["scored"].item()):
        called = percent(float(rate["called_rate"].item()))
        expected = "" if prevalence == "bundle" else f"; {percent(prevalence)} expected"
        stalled = summary.calls.get("stalled", 0)
        regions_scored = counted(scored, "scored region")
        print_line(f"{stalled} of {regions_scored} called stalled ({called}{expected})")
        if measured is not None:
            corrected, low, high = (percent(rate[name].item()) for name in ("rate", "low", "high"))
            print_line(f"corrected for wrong calls: {corrected} ({low} to {high})")
        say(str(rate["note"].item()))
    print_summary(summary, say_remarks=not few)
    if summary.failed and strict:
        sys.exit(EXIT_FAILED_ROWS)


def _find_regions(stack: "Stack", given: Path | None, out: Path) -> "Regions":
    """Return the regions of a file, or around the segments that are found if there is none."""
    from stallscan.calls.stacks import SEGMENTS_NAME, field_of
    from stallscan.cli.segmenting import find_segments
    from stallscan.errors import InputError
    from stallscan.vessels.region_files import read_regions
    from stallscan.vessels.regions import outline_line, say_overlaps
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
    return say_overlaps(
        [outline_line(str(number), each.line, field) for number, each in enumerate(found, 1)]
    )


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
