"""The command that finds the vessel segments of a stack: segment."""

from pathlib import Path
from typing import TYPE_CHECKING

from stallscan.cli.terminal import Out, command, print_line, show_progress

if TYPE_CHECKING:
    from stallscan.recordings.grey_stack import GreyStack


@command
def segment(
    stack: Path,
    /,
    *,
    out: Out,
    voxel_um: tuple[float, float, float] | None = None,
    channel: int = 0,
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
        TIFF file of planes along depth, in which vessels are bright.
    out
        Folder for segments.csv, centrelines.csv, labels.tif, rois.zip (ImageJ) and overview.png.
    voxel_um
        Distance of planes, rows and columns in um, if the file does not state it, or wrongly.
    channel
        The channel that shows the vessels, from 1.
    contrast
        Smaller values find dimmer vessels, and more that are none.
    capillary_radius_um
        Vessels with a larger radius are left out.
    least_um
        Shorter segments are left out.
    isolated_um
        The same for segments that are connected to no other vessel.
    """
    from stallscan import runs
    from stallscan.recordings.grey_stack import open_grey
    from stallscan.report.segments import OVERVIEW_NAME, project, write_overview
    from stallscan.stamps import Stamp
    from stallscan.vessels import segment_files
    from stallscan.vessels.segment import SegmentSettings
    from stallscan.words import counted

    given = {
        "contrast": contrast,
        "capillary_radius_um": capillary_radius_um,
        "least_um": least_um,
        "isolated_um": isolated_um,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = SegmentSettings.parse(chosen, "segment")
    with open_grey(stack, channel) as planes, runs.hold(out) as folder:
        sides_um = _find_sides(stack, planes, voxel_um)
        stamp = Stamp.of(stack)
        source = {
            "path": str(stack.resolve()),
            "bytes": 0 if stamp is None else stamp.bytes,
            "mtime_ns": 0 if stamp is None else stamp.mtime_ns,
            "channel": channel,
        }
        with show_progress("finding segments") as progress:
            found = segment_files.find_resumably(
                planes, sides_um, settings, folder, source, progress
            )
        segment_files.write_segments(found, folder, planes.shape, sides_um)
        write_overview(folder / OVERVIEW_NAME, project(planes), found, sides_um)
    print_line(f"{counted(len(found.capillaries), 'capillary segment')} -> {out}")


def _find_sides(
    stack: Path, planes: "GreyStack", given: tuple[float, float, float] | None
) -> tuple[float, float, float]:
    """Return the voxel size that was given, or that of the file."""
    from stallscan.errors import InputError

    sides_um = given or planes.voxel_um
    if sides_um is None:
        raise InputError(
            f"{stack}: does not state its voxel size. Give the distance of planes, rows and "
            "columns in um with --voxel-um"
        )
    if not all(0 < side <= 1000 for side in sides_um):
        raise InputError(
            f"{stack}: a voxel of {' x '.join(f'{side:g}' for side in sides_um)} um is impossible. "
            "Give the distance of planes, rows and columns in um with --voxel-um"
        )
    return sides_um
