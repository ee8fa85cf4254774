"""The command that finds the vessel segments of a stack: segment."""

from pathlib import Path
from typing import TYPE_CHECKING

from stallscan.cli.terminal import Out, command, print_line, show_progress
from stallscan.words import counted

if TYPE_CHECKING:
    from stallscan.recordings.raw import Stack
    from stallscan.vessels.segment import Segmented, SegmentSettings


@command
def segment(
    stack: Path,
    /,
    *,
    out: Out,
    voxel_um: tuple[float, float, float] | None = None,
    channel: str = "",
    time: int = 0,
    contrast: float | None = None,
    capillary_radius_um: float | None = None,
    least_um: float | None = None,
    isolated_um: float | None = None,
) -> None:
    """Find the capillary segments of a stack between their branch points.

    Large vessels are left out. An interrupted run resumes where it left off.

    Example: stallscan segment field3.tif --voxel-um 1 0.8 0.8 -o field3-segments

    Parameters
    ----------
    stack
        Planes along depth in which vessels are bright, in a file as for 'stallscan stack'.
    out
        Folder for segments.csv, centrelines.csv, labels.tif, rois.zip (ImageJ) and overview.png.
    voxel_um
        Distance of planes, rows and columns in um, if the file does not state it, or wrongly.
    channel
        Name or number (from 1) of the channel that shows the vessels.
    time
        In a file with several times and depths: the time whose depths are read, from 1.
    contrast
        Smaller values find dimmer vessels, and more that are none.
    capillary_radius_um
        Vessels with a larger radius are left out.
    least_um
        Shorter segments are left out.
    isolated_um
        The same for segments that are connected to no other vessel.
    """
    from stallscan.recordings.raw import StackSettings, open_stack
    from stallscan.vessels.segment import SegmentSettings

    reading = {"voxel_um": voxel_um, "channel": channel, "time": time, "along": "depth"}
    given = {
        "contrast": contrast,
        "capillary_radius_um": capillary_radius_um,
        "least_um": least_um,
        "isolated_um": isolated_um,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = SegmentSettings.parse(chosen, "segment")
    with open_stack(stack, StackSettings.parse(reading, "segment")) as opened:
        found = find_segments(opened, settings, out)
    print_line(f"{counted(len(found.capillaries), 'capillary segment')} -> {out}")


def find_segments(stack: "Stack", settings: "SegmentSettings", out: Path) -> "Segmented":
    """Find the segments of a stack, and write their files and overview into a folder."""
    from stallscan.report.segments import OVERVIEW_NAME, write_overview
    from stallscan.vessels.segment_files import find_in_stack

    with show_progress("finding segments") as progress:
        found = find_in_stack(stack, settings, out, progress)
    write_overview(out / OVERVIEW_NAME, stack.brightest, found, stack.voxel_um)
    return found
