"""Regions of a stack: the areas that a person would have outlined around vessel segments.

Areas are taken as they are. Around a centre line, or around a vessel labelled in three dimensions,
the outline keeps the distance that real outlines have.
"""

import hashlib
import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stallscan.recordings.recording import Box
from stallscan.vessels.enclosure import MIN_SEGMENT_PX, Mask
from stallscan.words import listed, percent, printable

log = logging.getLogger("stallscan")

F64 = NDArray[np.float64]

# Distance of an outline from the centre line; chosen so that the enclosed areas match real ones.
AROUND_LINE_UM = 13.0
# docs/facts.md 5: about 1 um per px, so that pixels of real outlines are um2.
MIN_REGION_UM2 = float(MIN_SEGMENT_PX)
# Larger than the box of any real outline, 245 x 365 px (docs/facts.md 9).
MAX_REGION_UM2 = 90_000.0
# A region with less of its area inside the image gets a remark, and so do two that share more of
# the area that both cover.
MOSTLY_INSIDE, MOSTLY_SHARED = 0.9, 0.6
# No image is as large; farther positions, squared or times 16, may exceed integers.
FARTHEST_PX = 1e6
FAR_AWAY = "the region is far outside the image. Draw it in this stack"
# Polygons are filled on a grid this many times finer than the pixels, unless they are large.
FINE, LARGE_PX = 4, 1000
# Hexadecimal digits of a region's code. Two different regions of the same name share it by a chance
# of 1 in 65,536.
CODE_DIGITS = 4


class Field(NamedTuple):
    """The stack that regions lie in.

    Attributes
    ----------
    shape : tuple of int
        Frames, rows, columns.
    voxel_um : tuple of float
        Distance of frames (0 along time), rows and columns in um.
    """

    shape: tuple[int, int, int]
    voxel_um: tuple[float, float, float]

    @property
    def pixel_um(self) -> float:
        """The side of a square pixel of the same area."""
        return math.sqrt(self.voxel_um[1] * self.voxel_um[2])


@dataclass(frozen=True)
class Region:
    """The area around one vessel segment.

    Attributes
    ----------
    name : str
        Unique among the regions of a file.
    code : str
        From `code_of`: regions of other places have another one, whatever their name.
    box : Box
        Part of the frame.
    mask : ndarray
        bool (h, w) of this box, not empty.
    frames : tuple of int or None
        First frame in which the vessel lies, and the one after the last; None if unknown.
    remark : str
        Anything that a person should know, as a clause; may be empty.
    line : ndarray or None
        float64 (n, 2): rows and columns of the centre line in pixels of the frame, if it was given.
    """

    name: str
    code: str
    box: Box
    mask: Mask
    frames: tuple[int, int] | None = None
    remark: str = ""
    line: F64 | None = None

    @property
    def full_name(self) -> str:
        """Name and code: what labels and calls are matched by."""
        return f"{self.name}-{self.code}"


class Unusable(NamedTuple):
    """A region that no clip can be cut from: its name, code, status and reason."""

    name: str
    code: str
    status: str
    reason: str

    @property
    def full_name(self) -> str:
        """As `Region.full_name`."""
        return f"{self.name}-{self.code}"


Regions = list[Region | Unusable]


def code_of(*geometry: NDArray[Any]) -> str:
    """Return four hexadecimal digits of the hash of a region's geometry, as its file has it.

    Labels are matched by name, and the names of regions are often their numbers. With the code in
    the name, labels of other regions do not match. Coordinates count to 0.01, as
    `stallscan segment` writes them.
    """
    digest = hashlib.sha256()
    for array in geometry:
        # Adding 0 turns -0 into 0.
        values = np.round(array.astype("<f8"), 2) + 0.0
        digest.update(repr(values.shape).encode() + values.tobytes())
    return digest.hexdigest()[:CODE_DIGITS]


def outline_area(
    name: str,
    mask: Mask,
    corner: tuple[int, int],
    field: Field,
    depth: tuple[int, int] | None,
    code: str = "",
) -> Region | Unusable:
    """Return the region of an area.

    Parameters
    ----------
    mask : ndarray
        bool (h, w), possibly larger than the frame.
    corner : tuple of int
        Row and column of its first pixel.
    depth : tuple of int or None
        As `Region.frames`; may exceed the stack.
    code : str
        That of the geometry from which the mask was made; by default, of the mask itself.
    """
    row, col = corner
    code = code or code_of(mask, np.array(corner), np.array(depth or ()))
    whole = Box(row, row + mask.shape[0], col, col + mask.shape[1])
    box = whole.grown(0, field.shape[1:])
    inside = mask[box.seen_from(whole).slices] if min(box.shape) > 0 else np.zeros((0, 0), bool)
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return Unusable(
            name,
            code,
            "out_of_view",
            f"the region is outside the image (rows {whole.row0} to {whole.row1}, columns "
            f"{whole.col0} to {whole.col1} of {field.shape[1]} x {field.shape[2]}). Draw it in "
            "this stack",
        )
    if depth is not None:
        last = field.shape[0]
        if depth[1] <= 0 or depth[0] >= last:
            return Unusable(
                name,
                code,
                "out_of_view",
                f"the region is in frame {depth[0] + 1} of a stack of {last}. Draw it in this "
                "stack",
            )
        depth = max(depth[0], 0), min(depth[1], last)
    area_um2 = float(inside.sum()) * field.pixel_um**2
    if area_um2 < MIN_REGION_UM2:
        return Unusable(
            name,
            code,
            "no_outline",
            f"the region covers {area_um2:.0f} um2 of the image, a vessel segment at least "
            f"{MIN_REGION_UM2:.0f}. Outline the vessel with some tissue around it, or check "
            "--voxel-um",
        )
    if area_um2 > MAX_REGION_UM2:
        return Unusable(
            name,
            code,
            "no_outline",
            f"the region covers {area_um2:,.0f} um2, far more than a vessel segment. Outline each "
            "segment by itself (in a label image, give each its own number), or check --voxel-um",
        )
    share = float(inside.sum() / mask.sum())
    remark = f"only {percent(share)} of the region is in the image" if share < MOSTLY_INSIDE else ""
    kept = Box(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
    shown = Box(
        box.row0 + kept.row0, box.row0 + kept.row1, box.col0 + kept.col0, box.col0 + kept.col1
    )
    return Region(name, code, shown, inside[kept.slices], depth, remark)


def outline_line(name: str, line: F64, field: Field, *, in_depth: bool = True) -> Region | Unusable:
    """Return the region around a centre line.

    Parameters
    ----------
    line : ndarray
        float64 (n, 3): frame, row and column of each point, in voxels; whole numbers are centres.
    in_depth : bool
        Whether the line says in which frames the vessel lies.
    """
    code = code_of(line if in_depth else line[:, 1:])
    if np.abs(line).max() > FARTHEST_PX:
        return Unusable(name, code, "out_of_view", FAR_AWAY)
    margin = margin_around(AROUND_LINE_UM, field)
    low = np.floor(line[:, 1:].min(axis=0)).astype(int) - margin
    high = np.ceil(line[:, 1:].max(axis=0)).astype(int) + margin + 1
    # Of a long line, only what is in and near the image: it lies in the middle of the canvas.
    size = np.minimum(high - low, 2 * (max(field.shape[1:]) + margin))
    low = np.clip((field.shape[1:] - size) // 2, low, high - size)
    canvas = np.full(size, 255, np.uint8)
    points = np.rint((line[:, :0:-1] - low[::-1]) * 16).astype(np.int32)  # (n, 2) x, y
    cv2.polylines(canvas, [points], False, 0, 1, shift=4)
    mask = find_near(canvas, AROUND_LINE_UM, field)
    depth = _depth_of(line[:, 0]) if in_depth and field.voxel_um[0] else None
    region = outline_area(name, mask, (int(low[0]), int(low[1])), field, depth, code)
    return replace(region, line=line[:, 1:]) if isinstance(region, Region) else region


def margin_around(reach_um: float, field: Field) -> NDArray[np.int64]:
    """Return the rows and columns that an outline at this distance needs around its vessel."""
    return np.ceil(reach_um / np.array(field.voxel_um[1:])).astype(int) + 1


def find_near(away: NDArray[np.uint8], reach_um: float, field: Field) -> Mask:
    """Return the pixels at most `reach_um` from the zeros of an image, bool (H, W)."""
    _, y_um, x_um = field.voxel_um
    # OpenCV is faster, but takes pixels as square; a difference of 1 % moves no outline by a pixel.
    if math.isclose(y_um, x_um, rel_tol=0.01):
        return cv2.distanceTransform(away, cv2.DIST_L2, 5) <= reach_um / field.pixel_um
    near: Mask = ndimage.distance_transform_edt(away, sampling=(y_um, x_um)) <= reach_um
    return near


def outline_lines(lines: Sequence[F64], field: Field) -> Regions:
    """Return the regions around lines, as `outline_line` takes them, with their numbers as names.

    Those that are nearly the same as another say so.
    """
    return say_overlaps(
        [outline_line(f"{number}", line, field) for number, line in enumerate(lines, start=1)]
    )


def describe_regions(regions: Regions) -> dict[str, Any]:
    """Return what tells regions from others, in JSON types."""
    digest = hashlib.sha256()
    for region in regions:
        if isinstance(region, Region):
            about = (region.full_name, region.box, region.frames)
            digest.update(repr(about).encode() + region.mask.tobytes())
        else:
            digest.update(repr(tuple(region)).encode())
    return {"count": len(regions), "sha256": digest.hexdigest()}


def outline_polygons(
    name: str, polygons: Sequence[F64], field: Field, depth: tuple[int, int] | None
) -> Region | Unusable:
    """Fill polygons (n, 2) of x, y, of which the centre of the first pixel is (0.5, 0.5)."""
    code = code_of(*polygons, np.array(depth or ()))
    every = np.concatenate(polygons)
    if np.abs(every).max() > FARTHEST_PX:
        return Unusable(name, code, "out_of_view", FAR_AWAY)
    low = np.floor(every.min(axis=0)).astype(int)
    size = np.ceil(every.max(axis=0)).astype(int) - low
    if (size < 1).any() or (size > 2 * max(field.shape[1:])).any():
        what = "has no area" if (size < 1).any() else "is far larger than the image"
        return Unusable(name, code, "no_outline", f"the region {what}. Draw it in this stack")
    # OpenCV fills half a pixel beyond the border: draw in finer pixels.
    fine = FINE if size.max() < LARGE_PX else 1
    canvas = np.zeros(size[::-1] * fine, np.uint8)
    corners = [np.rint(((each - low) * fine - 0.5) * 16).astype(np.int32) for each in polygons]
    cv2.fillPoly(canvas, corners, 255, shift=4)
    filled = cv2.resize(canvas, size.tolist(), interpolation=cv2.INTER_AREA) > 127
    return outline_area(name, filled, (int(low[1]), int(low[0])), field, depth, code)


def _depth_of(frames: F64) -> tuple[int, int]:
    return int(np.floor(frames.min())), int(np.ceil(frames.max())) + 1


def name_uniquely(path: Path, regions: Regions) -> Regions:
    """Name regions without a name, escape line feeds, and append numbers to repeated names."""
    regions = [_rename(region, printable(region.name).strip() or "unnamed") for region in regions]
    count = Counter(region.name for region in regions)
    twice = [name for name, times in count.items() if times > 1]
    if not twice:
        return regions
    log.warning("%s: several regions are named %s; they are numbered", path, listed(twice))
    taken, seen, renamed = set(count), Counter[str](), []
    for region in regions:
        name = region.name
        seen[name] += 1
        if seen[name] > 1:
            name = next(
                other
                for number in itertools.count(seen[name])
                if (other := f"{region.name}-{number}") not in taken
            )
            taken.add(name)
        renamed.append(_rename(region, name))
    return renamed


def _rename(region: Region | Unusable, name: str) -> Region | Unusable:
    if isinstance(region, Region):
        return replace(region, name=name)
    return region._replace(name=name)


def say_overlaps(regions: Regions) -> Regions:
    """Add a remark to regions that are nearly the same as another one at the same depth.

    Regions of different vessels may overlap: other vessels cross most regions.
    """
    usable = [(at, region) for at, region in enumerate(regions) if isinstance(region, Region)]
    boxes = np.array([region.box for _, region in usable]).reshape(-1, 4)
    sizes = np.array([region.mask.sum() for _, region in usable], np.int64)
    shared: dict[int, tuple[float, str]] = {}
    order = np.argsort(boxes[:, 0], kind="stable")
    starts = boxes[order, 0]
    for place, first in enumerate(order.tolist()):
        stop = int(np.searchsorted(starts, boxes[first, 1]))
        others = order[place + 1 : stop]
        # The boxes' common area bounds that of the masks, and few boxes have enough of it.
        rows = np.minimum(boxes[first, 1], boxes[others, 1]) - boxes[others, 0]
        columns = np.minimum(boxes[first, 3], boxes[others, 3])
        columns -= np.maximum(boxes[first, 2], boxes[others, 2])
        most = rows * np.maximum(columns, 0)
        near = most > MOSTLY_SHARED * (sizes[first] + sizes[others] - most)
        for second in others[near].tolist():
            common = _count_common(usable[first][1], usable[second][1])
            share = common / float(sizes[first] + sizes[second] - common)
            for one, other in ((first, second), (second, first)):
                if share > max(MOSTLY_SHARED, shared.get(one, (0.0, ""))[0]):
                    shared[one] = share, usable[other][1].name
    said = list(regions)
    for one, (share, name) in shared.items():
        at, region = usable[one]
        remark = (
            f"the region is nearly the same as region {name} (they share "
            f"{percent(round(share, 2))} of their area)"
        )
        said[at] = replace(region, remark="; ".join(filter(None, [region.remark, remark])))
    if shared:
        log.warning(
            "%d regions are nearly the same as another, so a vessel may count twice; the column "
            "'reason' names them",
            len(shared),
        )
    return said


def _count_common(one: Region, other: Region) -> int:
    """Return the number of pixels that two regions share; 0 if they are at different depths."""
    if one.frames and other.frames:
        first, stop = max(one.frames[0], other.frames[0]), min(one.frames[1], other.frames[1])
        if first >= stop:
            return 0
    a, b = one.box, other.box
    box = Box(max(a.row0, b.row0), min(a.row1, b.row1), max(a.col0, b.col0), min(a.col1, b.col1))
    if min(box.shape) <= 0:
        return 0
    both = one.mask[box.seen_from(a).slices] & other.mask[box.seen_from(b).slices]
    return int(both.sum())
