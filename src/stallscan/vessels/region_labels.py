"""Regions from label images, of one plane or of all planes of a stack."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stallscan.errors import InputError
from stallscan.recordings import planes
from stallscan.recordings.recording import Box
from stallscan.vessels.enclosure import Mask
from stallscan.vessels.regions import (
    Field,
    Region,
    Unusable,
    code_of,
    find_near,
    margin_around,
    outline_area,
)

# Distance of an outline from the surface of a vessel labelled in three dimensions; with the usual
# radius of 3 um, it is `regions.AROUND_LINE_UM` from the centre line.
AROUND_VESSEL_UM = 10.0
# Higher labels are numbered anew, because SciPy lists all numbers up to the highest.
MOST_LISTED = 1_000_000


def read_labels(path: Path, field: Field) -> Iterator[Region | Unusable]:
    """Yield a region for each label; a stack of labels is projected along depth."""
    if path.suffix.lower() == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not readable as npy ({error}). Save it again") from None
        array = array[None] if array.ndim == 2 else array
        _check_labels(path, array.shape, array.dtype, field)
        yield from _project_labels(path, list(array), field)
        return
    with planes.open_tiff(path) as found:
        sizes = [size for _, size in found.dimensions]
        axis = found.dimensions[0][0] if len(sizes) == 1 else ""
        _check_labels(path, (*(sizes or [1]), *found.shape), found.dtype, field)
        places = [{axis: index} if axis else {} for index in range(sizes[0] if sizes else 1)]
        yield from _project_labels(path, map(found.read, places), field)


def _check_labels(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], field: Field) -> None:
    if dtype.kind not in "uib":
        raise InputError(
            f"{path}: a label image has whole numbers, 0 outside of the regions, not {dtype}. "
            "Save it as 8 or 16 bits"
        )
    if shape not in (field.shape, (1, *field.shape[1:])):
        raise InputError(
            f"{path}: the label image is {' x '.join(map(str, shape))} (planes, rows, columns), "
            f"the stack {' x '.join(map(str, field.shape))}. Give labels of this stack, of all its "
            "planes or of one for all"
        )


def _project_labels(
    path: Path, every: Iterable[NDArray[Any] | None], field: Field
) -> Iterator[Region | Unusable]:
    masks: dict[int, tuple[Box, Mask]] = {}
    depths: dict[int, tuple[int, int]] = {}
    count = 0
    for depth, plane in enumerate(every):
        if plane is None:
            raise InputError(f"{path}: plane {depth + 1} cannot be decoded. Copy the file again")
        count += 1
        labels = plane.astype(np.int64)
        if labels.min(initial=0) < 0:
            raise InputError(f"{path}: has labels below 0. Number the regions from 1")
        for label, box in _find_labels(labels):
            mask = labels[box.slices] == label
            masks[label] = _join((box, mask), masks.get(label))
            depths[label] = depths.get(label, (depth, 0))[0], depth + 1
    if len(masks) == count == 1:
        # A mask: each connected piece is a region.
        ((box, mask),) = masks.values()
        pieces, _ = ndimage.label(mask, np.ones((3, 3)))
        masks = {
            label: (Box(part.row0 + box.row0, part.row1 + box.row0, part.col0 + box.col0,
                        part.col1 + box.col0), pieces[part.slices] == label)
            for label, part in _find_labels(pieces.astype(np.int64))
        }  # fmt: skip
        depths = {}
    margin = margin_around(AROUND_VESSEL_UM, field)
    for label, (box, mask) in sorted(masks.items()):
        if count == 1:
            yield outline_area(f"{label}", mask, (box.row0, box.col0), field, None)
            continue
        away = np.pad(~mask, margin[:, None], constant_values=True).astype(np.uint8)
        near = find_near(away, AROUND_VESSEL_UM, field)
        corner = box.row0 - int(margin[0]), box.col0 - int(margin[1])
        along = depths[label] if field.voxel_um[0] else None
        code = code_of(mask, np.array([box.row0, box.col0, *depths[label]]))
        yield outline_area(f"{label}", near, corner, field, along, code)


def _find_labels(labels: NDArray[np.int64]) -> Iterator[tuple[int, Box]]:
    """Yield the labels of a plane, and their boxes."""
    values = np.arange(1, labels.max(initial=0) + 1)
    if len(values) > MOST_LISTED:
        values = np.unique(labels[labels > 0])
        compact = np.searchsorted(values, labels) + 1
        compact[labels == 0] = 0
        labels = compact
    for value, slices in zip(values.tolist(), ndimage.find_objects(labels), strict=False):
        if slices is not None:
            rows, cols = slices
            yield value, Box(rows.start, rows.stop, cols.start, cols.stop)


def _join(one: tuple[Box, Mask], other: tuple[Box, Mask] | None) -> tuple[Box, Mask]:
    """Return the union of two masks in their boxes."""
    if other is None:
        return one
    (a, _), (b, _) = one, other
    box = Box(min(a.row0, b.row0), max(a.row1, b.row1), min(a.col0, b.col0), max(a.col1, b.col1))
    mask = np.zeros(box.shape, bool)
    for part, pixels in (one, other):
        mask[part.seen_from(box).slices] |= pixels
    return box, mask
