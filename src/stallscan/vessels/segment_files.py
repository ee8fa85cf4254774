"""The files of `stallscan segment`: tables, label stack, ImageJ ROIs; resuming by slab."""

import contextlib
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi

import stallscan
from stallscan import files, runs
from stallscan.errors import UnreadableError
from stallscan.recordings.raw import Stack
from stallscan.vessels.enclosure import Mask
from stallscan.vessels.regions import F64, Field, Unusable, outline_line
from stallscan.vessels.ridges import Skeleton
from stallscan.vessels.segment import (
    Capillary,
    Segmented,
    SegmentSettings,
    connect,
    find_slab,
    join_skeletons,
)
from stallscan.vessels.slabs import Grid, Planes, Sides

SEGMENTS_NAME, LINES_NAME, NOTE_NAME = "segments.csv", "centrelines.csv", "segment.json"
LABELS_NAME, ROIS_NAME = "labels.tif", "rois.zip"
OUTPUTS = (SEGMENTS_NAME, LINES_NAME, LABELS_NAME, ROIS_NAME)
LINE_COLUMNS = ("segment", "z", "y", "x")
# Skeletons of the slabs that are done; removed at the end.
SLABS_NAME = "slabs"
SEGMENT_COLUMNS = (
    "segment",
    "length_um",
    "radius_um",
    "depth_from_um",
    "depth_to_um",
    "tortuosity",
    "branch_order",
    "frames_in_focus",
    "first_frame",
    "last_frame",
)


def find_in_stack(
    stack: Stack,
    settings: SegmentSettings,
    folder: Path,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Segmented:
    """Find the capillaries of a stack, and write all files but the overview.

    Parameters
    ----------
    stack : Stack
        Its frames are depths (`StackSettings.along`).
    settings, progress
        As for `segment.find_segments`.
    folder : Path
        Output folder; one that an interrupted run has left is completed.

    Raises
    ------
    InputError
        If the folder holds the segments of another stack, or with other settings.
    UnreadableError
        If a frame cannot be read.
    """
    with runs.hold(folder):
        found = find_resumably(stack, stack.voxel_um, settings, folder, stack.describe(), progress)
        write_segments(found, folder, stack.shape, stack.voxel_um)
    return found


def find_resumably(
    planes: Planes,
    um_per_voxel: Sides,
    settings: SegmentSettings,
    folder: Path,
    source: dict[str, Any],
    progress: Callable[[int, int], None],
) -> Segmented:
    """Find the capillaries of a stack; slabs that an interrupted run finished are not repeated.

    Parameters
    ----------
    planes, um_per_voxel, settings, progress
        As for `segment.find_segments`.
    folder : Path
        Output folder, held by the caller.
    source : dict
        What identifies the stack, of JSON types.

    Raises
    ------
    InputError
        If the folder holds the segments of another stack, or with other settings.
    UnreadableError
        If all values of the stack are equal.
    """
    note = {
        "stack": source,
        "voxel_um": list(um_per_voxel),
        "settings": settings.model_dump(mode="json"),
    }
    runs.claim(folder / NOTE_NAME, note, "segments of a stack", OUTPUTS)
    grid = Grid(planes, um_per_voxel)
    grid.measure_levels()
    if not grid.contrast:
        raise UnreadableError(
            f"{source['path']}: all its values are equal, so it shows no vessels. Choose another "
            "channel, or export the stack again"
        )
    found = []
    slabs = grid.slabs()
    for index, (first, last) in enumerate(slabs):
        # Another version may have found something else.
        path = folder / SLABS_NAME / stallscan.__version__ / f"{index:04d}.npz"
        skeleton = _read_slab(path)
        if skeleton is None:
            skeleton = find_slab(grid, first, last, settings)
            with files.atomic_path(path) as temporary:
                np.savez(temporary, **vars(skeleton))
        found.append(skeleton)
        progress(len(found), len(slabs))
    whole = join_skeletons(found)
    del found  # of millions of voxels, before as many are connected
    return connect(whole, grid, settings)


def _read_slab(path: Path) -> Skeleton | None:
    """Return the skeleton of a slab that was written earlier, or None."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile),
        np.load(path) as stored,
    ):
        return Skeleton(**{name: stored[name] for name in Skeleton.__dataclass_fields__})
    return None


def write_segments(
    segmented: Segmented, folder: Path, shape: tuple[int, ...], um_per_voxel: Sides
) -> None:
    """Write the tables, the label stack and the ROIs of a stack of `shape` (Z, H, W)."""
    capillaries = segmented.capillaries
    files.write_rows(folder / SEGMENTS_NAME, SEGMENT_COLUMNS, _rows(capillaries, um_per_voxel))
    write_lines(folder / LINES_NAME, [each.line for each in capillaries])
    write_labels(folder / LABELS_NAME, capillaries, shape, um_per_voxel)
    _write_rois(folder / ROIS_NAME, capillaries, shape, um_per_voxel)
    shutil.rmtree(folder / SLABS_NAME, ignore_errors=True)


def write_lines(path: Path, lines: Sequence[F64]) -> None:
    """Write centre lines, each float64 (n, 3) in voxels, as a table; segments count from 1."""
    points = (
        (number, *(f"{place:.2f}" for place in point))
        for number, line in enumerate(lines, start=1)
        for point in line
    )
    files.write_rows(path, LINE_COLUMNS, points)


def _rows(capillaries: tuple[Capillary, ...], um_per_voxel: Sides) -> Iterator[tuple[Any, ...]]:
    for number, capillary in enumerate(capillaries, start=1):
        depth_um = (capillary.line[:, 0] + 0.5) * um_per_voxel[0]
        first, last = capillary.planes
        yield (
            number,
            f"{capillary.length_um:.1f}",
            f"{capillary.radius_um:.2f}",
            f"{depth_um.min():.1f}",
            f"{depth_um.max():.1f}",
            "" if math.isnan(capillary.tortuosity) else f"{capillary.tortuosity:.3f}",
            "" if capillary.branch_order is None else capillary.branch_order,
            last - first + 1,
            first,
            last,
        )


class Tube(Protocol):
    """A vessel with a centre line and a radius."""

    @property
    def line(self) -> NDArray[np.float64]:
        """float64 (n, 3): z, y, x in voxels, about 1 um apart."""

    @property
    def radius_um(self) -> float:
        """Median along the line."""


def write_labels(
    path: Path, tubes: Sequence[Tube], shape: tuple[int, ...], um_per_voxel: Sides
) -> None:
    """Write a label stack: the number of the tube at each voxel from 1, 0 outside.

    It is computed plane by plane.
    """
    dtype = np.uint16 if len(tubes) < 2**16 else np.uint32
    # 0.7 voxels, so that each plane that a thin vessel crosses has some of it
    sides = np.array(um_per_voxel)
    points = [tube.line for tube in tubes]
    counts = [len(line) for line in points]
    line = np.concatenate([np.zeros((0, 3)), *points])
    radius_um = np.repeat([each.radius_um for each in tubes], counts)
    number = np.repeat(np.arange(1, len(tubes) + 1), counts)
    reach_um = np.maximum(radius_um, 0.7 * sides[0])
    planes = (
        label_plane(index, line, radius_um, reach_um, number, shape, sides).astype(dtype)
        for index in range(shape[0])
    )
    with files.atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            planes,
            shape=shape,
            dtype=dtype,
            photometric="minisblack",
            compression="zlib",
            resolution=(1e4 / um_per_voxel[2], 1e4 / um_per_voxel[1]),
            resolutionunit="CENTIMETER",
            metadata={"axes": "ZYX", "spacing": um_per_voxel[0], "unit": "um"},
        )


def label_plane(
    index: int,
    line: NDArray[np.float64],
    radius_um: NDArray[np.float64],
    reach_um: NDArray[np.float64],
    number: NDArray[np.int64],
    shape: tuple[int, ...],
    sides_um: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the numbers of the tubes in a plane, int64 (H, W); the nearest line wins.

    Parameters
    ----------
    index : int
        The plane.
    line : ndarray
        float64 (n, 3): points on the centre lines, z, y, x in voxels.
    radius_um, reach_um : ndarray
        float64 (n,): radius within the plane, and largest distance from it.
    number : ndarray
        int64 (n,): of the tubes, above 0.
    shape : tuple of int
        (Z, H, W).
    sides_um : ndarray
        float64 (3,): size of a voxel.
    """
    labels = np.zeros(shape[1:], np.int64)
    off_um = np.abs(line[:, 0] - index) * sides_um[0]
    near = np.flatnonzero(off_um <= reach_um)
    if not len(near):
        return labels
    # The tube is narrower off its axis, but never vanishes.
    wide_um = radius_um[near] * np.sqrt(1 - np.minimum(off_um[near] / reach_um[near], 0.95) ** 2)
    most = np.ceil(wide_um.max() / sides_um[1:]).astype(int) + 1
    grid = np.mgrid[-most[0] : most[0] + 1, -most[1] : most[1] + 1].reshape(2, -1).T  # (k, 2)
    centre = np.rint(line[near, 1:]).astype(int)
    place = centre[:, None] + grid  # (n, k, 2)
    away_um = np.linalg.norm((place - line[near, None, 1:]) * sides_um[1:], axis=2)
    inside = (away_um <= np.maximum(wide_um, sides_um[1:].max() / 2)[:, None]) & (
        (place >= 0) & (place < shape[1:])
    ).all(axis=2)
    rows, columns = place[inside].T
    # Of several values for a voxel, the last one is kept.
    order = np.argsort(-np.hypot(away_um, off_um[near, None])[inside], kind="stable")
    numbers = np.broadcast_to(number[near, None], inside.shape)[inside]
    labels[rows[order], columns[order]] = numbers[order]
    return labels


def _write_rois(
    path: Path, capillaries: tuple[Capillary, ...], shape: tuple[int, ...], um_per_voxel: Sides
) -> None:
    """Write the polygon of the region of each segment, at the plane in the middle of its depths."""
    field = Field((shape[0], shape[1], shape[2]), um_per_voxel)
    digits = len(str(len(capillaries)))
    with files.atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number, capillary in enumerate(capillaries, start=1):
            region = outline_line(f"{number:0{digits}d}", capillary.line, field, in_depth=False)
            if isinstance(region, Unusable):
                continue
            corner = region.box.col0, region.box.row0
            roi = ImagejRoi.frompoints(_trace(region.mask) + corner, name=region.name)
            roi.roitype = ROI_TYPE.TRACED
            roi.position = round(sum(capillary.planes) / 2) + 1
            archive.writestr(f"{region.name}.roi", roi.tobytes())


def _trace(mask: Mask) -> NDArray[np.int64]:
    """Return the corners around the largest area of a mask, int64 (n, 2): columns, rows.

    Whole numbers are corners of pixels, as in ImageJ; contours of OpenCV go through their centres.
    """
    # Of each pixel's four quarters, the contour goes through those next to its corners.
    quarters = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(quarters, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contour = max(contours, key=cv2.contourArea)
    corners: NDArray[np.int64] = (contour[:, 0].astype(np.int64) + 1) // 2
    # Two quarters on either side of an inward corner have the same one.
    is_new = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    return np.compress(is_new, corners, axis=0)
