"""The capillary segments of a time series at one depth, found in the mean of its frames.

`vessels.segment` looks for tubes in depth. So the mean image is given a depth: it fades on either
side of its plane, as the blurred vessels of a stack do.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stallscan import files, runs
from stallscan.errors import InputError
from stallscan.vessels.regions import Field, Regions, outline_line, say_overlaps
from stallscan.vessels.segment import Capillary, SegmentSettings, find_segments

F32 = NDArray[np.float32]

LINES_NAME = "centrelines.csv"
# Standard deviation with which the image fades, about the radius of a capillary (docs/facts.md 5),
# and the planes on either side of it.
FADE_UM, PLANES = 2.5, 8


def find_capillaries(
    mean: F32, sides_um: tuple[float, ...], settings: SegmentSettings
) -> list[Capillary]:
    """Find the capillaries in a mean image, float32 (H, W), with pixels of this height and width.

    Their lines lie in plane 0.
    """
    plane_um = max(*sides_um, 1.0)
    depth_um = np.arange(-PLANES, PLANES + 1) * plane_um
    fade = np.exp(-0.5 * (depth_um / FADE_UM) ** 2).astype(np.float32)
    dark = np.float32(np.percentile(mean, 5))
    planes = dark + (mean - dark) * fade[:, None, None]  # (planes, H, W)
    found = find_segments(planes, (plane_um, sides_um[0], sides_um[1]), settings).capillaries
    return [each for each in found if each.radius_um <= settings.capillary_radius_um]


def find_regions(path: Path, mean: F32, field: Field, out: Path) -> Regions:
    """Return a region around each capillary, and write their lines into ``centrelines.csv``.

    Raises
    ------
    InputError
        If there is none.
    """
    found = find_capillaries(mean, field.voxel_um[1:], SegmentSettings())
    if not found:
        raise InputError(
            f"{path}: no capillary segments were found in the mean of its frames. Outline the "
            "vessels yourself (--regions)"
        )
    rows = [
        f"{number},0,{row:.2f},{column:.2f}"
        for number, each in enumerate(found, start=1)
        for row, column in each.line[:, 1:]
    ]
    with runs.hold(out) as folder:
        text = "\n".join(["segment,z,y,x", *rows, ""])
        files.write_text(folder / LINES_NAME, text)
    return say_overlaps(
        [outline_line(str(number), each.line, field) for number, each in enumerate(found, 1)]
    )
