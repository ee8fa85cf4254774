"""Files of regions: ImageJ ROIs, label images, tables of boxes, polygons or centre lines, SWC."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import roifile
from numpy.typing import NDArray
from roifile import ROI_TYPE

from stallscan.catalog import text
from stallscan.catalog.headers import KEY
from stallscan.catalog.tables import refuse_rows
from stallscan.errors import InputError, TableError
from stallscan.vessels.region_labels import read_labels
from stallscan.vessels.regions import (
    F64,
    Field,
    Region,
    Regions,
    Unusable,
    code_of,
    name_uniquely,
    outline_area,
    outline_line,
    outline_polygons,
    say_overlaps,
)
from stallscan.words import listed

MOST_REGIONS = 100_000
# Chosen: larger coordinates, in pixels or um, belong to no stack.
LARGEST = 1e7
NAME_COLUMNS = ("region", "segment", "name", "label", "roi", "id")
_LINES = (ROI_TYPE.LINE, ROI_TYPE.POLYLINE, ROI_TYPE.FREELINE)
_AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.RECT, ROI_TYPE.OVAL, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
_SUFFIXES = ".roi, .zip (ImageJ), .csv, .swc, .tif or .npy (label image)"


def read_regions(path: str | Path, field: Field) -> Regions:
    """Read the regions of a stack.

    Parameters
    ----------
    path : str or Path
        ImageJ ``.roi`` or ``.zip``; a label image (``.tif``, ``.npy``), of one plane or of all
        planes of the stack; a table (``.csv``) of boxes, polygons or centre lines; or centre lines
        in um (``.swc``).
    field : Field
        The stack.

    Returns
    -------
    list
        In the order of the file, each name once.

    Raises
    ------
    InputError
        If the file is missing, has another format, does not fit the stack, or no region is inside
        the image.
    TableError
        If a table is malformed. The message names the rows.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder. Give the file with the regions in it: {_SUFFIXES}")
    if not path.is_file():
        raise InputError(f"{path}: no such file. Check the name of the file with the regions")
    readers = {
        ".roi": _read_rois,
        ".zip": _read_rois,
        ".csv": _read_table,
        ".tsv": _read_table,
        ".txt": _read_table,
        ".swc": _read_swc,
        ".tif": read_labels,
        ".tiff": read_labels,
        ".npy": read_labels,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: is not a file with regions. Give {_SUFFIXES}")
    regions = list(itertools.islice(reader(path, field), MOST_REGIONS + 1))
    if len(regions) > MOST_REGIONS:
        raise InputError(f"{path}: has more than {MOST_REGIONS:,} regions. Split the file")
    if not any(isinstance(region, Region) for region in regions):
        why = next((f" ({r.name}: {r.reason})" for r in regions if isinstance(r, Unusable)), "")
        raise InputError(
            f"{path}: none of its {len(regions)} regions can be used{why}. Check that they were "
            "drawn in this stack, and the units of their coordinates"
        )
    return say_overlaps(name_uniquely(path, regions))


def _read_rois(path: Path, field: Field) -> Iterator[Region | Unusable]:
    try:
        read = roifile.roiread(path)
    # roifile can raise almost anything on a damaged file.
    except Exception as error:  # noqa: BLE001
        raise InputError(
            f"{path}: not readable as ImageJ regions ({error}). Save them again with More > Save "
            "in ImageJ's ROI Manager"
        ) from None
    every = read if isinstance(read, list) else [read]
    for number, roi in enumerate(every, start=1):
        name = roi.name or f"{number}"
        place = roi.z_position or roi.position  # counted from 1; 0 for all planes
        depth = (place - 1, place) if place > 0 and field.voxel_um[0] else None
        if roi.roitype not in _AREAS + _LINES:
            kind = getattr(roi.roitype, "name", str(roi.roitype)).lower()
            reason = f"a selection of type {kind} encloses nothing. Outline the vessel"
            yield Unusable(name, code_of(), "no_outline", reason)
        elif not (parts := _parts_of(roi)):
            yield Unusable(
                name, code_of(), "no_outline", "the region has no area. Outline the vessel"
            )
        elif roi.roitype in _LINES:
            points = parts[0] - 0.5  # (n, 2): centres are whole numbers
            depths = np.full(len(points), float(place - 1))
            line = np.column_stack([depths, points[:, ::-1]])
            yield outline_line(name, line, field, in_depth=depth is not None)
        else:
            yield outline_polygons(name, parts, field, depth)


def _parts_of(roi: roifile.ImagejRoi) -> list[F64]:
    """Return the points of each part of a selection, (n, 2) x, y; empty if it is damaged."""
    try:
        parts = [np.asarray(part, float) for part in roi.coordinates(multi=True)]
    # As in `_read_rois`.
    except Exception:  # noqa: BLE001
        return []
    usable = all(part.size and np.isfinite(part).all() for part in parts)
    return parts if usable else []


def _read_table(path: Path, field: Field) -> Iterator[Region | Unusable]:
    """Yield the boxes, polygons or centre lines of a table."""
    table = text.read(path, "a CSV table of regions")
    refuse_rows(path, table.wrong)
    name = next((column for column in NAME_COLUMNS if column in table.header), None)
    # `text.read` calls a column 'name' as it calls those of recordings.
    if name is None and table.key in NAME_COLUMNS and KEY in table.header:
        name = KEY
    columns = set(table.header)
    if {"row0", "row1", "col0", "col1"} <= columns:
        numbers = _numbers(table, ("row0", "row1", "col0", "col1"))
    elif {"x", "y", "width", "height"} <= columns:
        x, y, width, height = _numbers(table, ("x", "y", "width", "height")).T
        numbers = np.column_stack([y, y + height, x, x + width])
    elif name is not None and {"x", "y"} <= columns:
        yield from _read_curves(table, name, field)
        return
    else:
        raise TableError(
            f"{path}: the columns ({listed(table.header)}) describe no regions. Give region with "
            "row0, row1, col0, col1 (boxes), with x, y (polygons), or with z, y, x (centre lines)"
        )
    names = table.column(name) if name else [f"{number}" for number in range(1, len(numbers) + 1)]
    depths = _read_depths(table) if field.voxel_um[0] else [None] * len(numbers)
    for index, (row0, row1, col0, col1) in enumerate(np.rint(numbers).astype(int).tolist()):
        depth = depths[index]
        if row1 <= row0 or col1 <= col0:
            reason = "the box is empty. Its second row and column come after the first"
            yield Unusable(names[index], code_of(numbers[index]), "no_outline", reason)
            continue
        if depth is not None and depth[1] <= depth[0]:
            reason = "the box has no planes. Its stop comes after its first"
            yield Unusable(names[index], code_of(numbers[index]), "no_outline", reason)
            continue
        # Only the part inside is filled; a box may be of any size.
        shape = min(row1 - row0, 4 * field.shape[1]), min(col1 - col0, 4 * field.shape[2])
        yield outline_area(names[index], np.ones(shape, bool), (row0, col0), field, depth)


def _read_depths(table: text.Text) -> Sequence[tuple[int, int] | None]:
    """Return the planes of each box, [first, stop); None where it names none."""
    columns = ("first", "stop")  # as `stallscan stack` writes them: empty without planes
    if set(columns) <= set(table.header):
        cells = zip(*map(table.column, columns), strict=True)
        named = np.array(["".join(pair).strip() != "" for pair in cells], bool)
        depths = _numbers(table, columns, named)
    elif "z" in table.header:
        named = np.ones(len(table.rows), bool)
        nearest = np.rint(_numbers(table, ("z",)))
        depths = np.column_stack([nearest, nearest + 1])
    else:
        return [None] * len(table.rows)
    return [
        (int(first), int(stop)) if has_planes else None
        for has_planes, (first, stop) in zip(named, depths.tolist(), strict=True)
    ]


def _read_curves(table: text.Text, name: str, field: Field) -> Iterator[Region | Unusable]:
    """Yield polygons, or centre lines if there is a column z; the rows of one share its name."""
    has_depth = "z" in table.header
    numbers = _numbers(table, ("z", "y", "x") if has_depth else ("x", "y"))
    rows: dict[str, list[int]] = {}
    for index, cell in enumerate(table.column(name)):
        rows.setdefault(cell, []).append(index)
    for cell, indices in rows.items():
        points = numbers[indices]
        if has_depth:
            yield outline_line(cell, points, field)
        else:
            yield outline_polygons(cell, [points], field, None)


def _numbers(
    table: text.Text, columns: Sequence[str], wanted: NDArray[np.bool_] | None = None
) -> F64:
    """Return columns as numbers, float64 (rows, columns); 0 in rows that are not wanted."""
    values = np.zeros((len(table.rows), len(columns)))
    for place, column in enumerate(columns):
        for index, cell in enumerate(table.column(column)):
            if wanted is not None and not wanted[index]:
                continue
            try:
                values[index, place] = float(text.with_point(cell))
            except ValueError:
                values[index, place] = np.nan
            if not np.isfinite(values[index, place]) or abs(values[index, place]) > LARGEST:
                raise TableError(
                    f"{table.path}: line {table.lines[index]}: {column} is {cell!r}. Give a number "
                    "of pixels"
                )
    return values


def _read_swc(path: Path, field: Field) -> Iterator[Region | Unusable]:
    """Yield the branches of a skeleton in um, each between two branching points or ends."""
    nodes: dict[int, tuple[list[float], int]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line, cells in enumerate(map(str.split, file), 1):
            if not cells or cells[0].startswith("#"):
                continue
            try:
                number, _, x, y, z, _, parent = (float(cell) for cell in cells[:7])
                if not all(abs(each) <= LARGEST for each in (number, x, y, z, parent)):
                    raise ValueError
            except ValueError:
                raise TableError(
                    f"{path}: line {line} is not a node of SWC. Give 7 numbers: id, type, x, y, z, "
                    "radius, parent"
                ) from None
            if int(number) in nodes:
                raise TableError(
                    f"{path}: line {line} repeats the id {int(number)} of another node. Export "
                    "the skeleton again, with an id for each node"
                )
            nodes[int(number)] = ([z, y, x], int(parent))
    depth_um, row_um, col_um = field.voxel_um
    for number, branch in enumerate(_split_branches(nodes), start=1):
        place_um = np.array([nodes[node][0] for node in branch])  # (n, 3) z, y, x
        yield outline_line(f"{number}", place_um / [depth_um or 1.0, row_um, col_um], field)


def _split_branches(nodes: dict[int, tuple[list[float], int]]) -> Iterator[list[int]]:
    children = Counter(parent for _, parent in nodes.values())
    # A branch starts at a node with several children, or at a root, and ends at the next such node.
    ends = [node for node in nodes if children[node] != 1]
    for end in ends:
        branch, parent = [end], nodes[end][1]
        while parent in nodes and len(branch) <= len(nodes):
            branch.append(parent)
            if children[parent] > 1:
                break
            parent = nodes[parent][1]
        if len(branch) > 1:
            yield branch[::-1]
