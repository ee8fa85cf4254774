"""A real vessel network, from a stack in which somebody has labelled the vessels."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from stallscan.errors import InputError
from stallscan.simulate.network import resample

F64 = NDArray[np.float64]
Rng = np.random.Generator

MIN_RADIUS_UM = 1.5  # chosen: thinner ones are gaps in the labelling rather than vessels
SPUR_UM = 5.0  # chosen: shorter side branches are bumps of the labelled surface
SMOOTH_UM = 3.0  # chosen: takes the stairs of voxels away, and leaves bends
MARGIN_UM = 30.0


@dataclass(frozen=True)
class Segment:
    """A vessel between two branching points.

    Attributes
    ----------
    line : ndarray
        float64 (n, 3): x, y, z in um, points about 1 um apart.
    radius_um : ndarray
        float64 (n,): at least `MIN_RADIUS_UM`.
    """

    line: F64
    radius_um: F64


@dataclass(frozen=True)
class Network:
    """All vessels of a box.

    Attributes
    ----------
    segments : tuple of Segment
        Their ends meet where they branch.
    extent_um : tuple of float
        Size of the box along x, y, z.
    """

    segments: tuple[Segment, ...]
    extent_um: tuple[float, float, float]


def read_network(path: Path, um_per_voxel: tuple[float, float, float]) -> Network:
    """Read a label stack and find the centre lines and radii of its vessels.

    Parameters
    ----------
    path : Path
        TIFF stack of integers, planes before rows before columns; all but 0 is vessel.
    um_per_voxel : tuple of float
        Size of a voxel along z, y, x in um.

    Returns
    -------
    Network
        At least one segment.

    Raises
    ------
    InputError
        If scikit-image is missing, or the file is no readable stack or holds no vessel.
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError:
        raise InputError(
            "reading a label stack needs scikit-image; pip install 'stallscan[lab]'"
        ) from None
    labelled = _read_stack(path)
    # Thin and thick voxels would bend the skeleton: brought to cubes of the smallest side.
    side = min(um_per_voxel)
    mask = ndimage.zoom(labelled.astype(np.float32), np.array(um_per_voxel) / side, order=1) > 0.5
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(mask, 2)))[2:-2, 2:-2, 2:-2]
    radius = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)), np.float64) * side
    radius = radius[1:-1, 1:-1, 1:-1]
    voxels = np.argwhere(skeletonize(mask))  # type: ignore[no-untyped-call]
    segments = [
        _make_segment((voxels[way] * side).astype(np.float64), radius[tuple(voxels[way].T)], side)
        for way in _trace(voxels, SPUR_UM / side)
    ]
    if not segments:
        raise InputError(f"{path}: no vessel is found in it; a stack of labels is expected")
    depth, height, width = (side * size for size in mask.shape)
    return Network(tuple(segments), (width, height, depth))


def place(network: Network, rng: Rng, extent_um: tuple[float, float, float]) -> Network:
    """Fill a field with a network: turned, shifted, and mirrored where it is too small.

    Parameters
    ----------
    network : Network
        From `read_network`.
    rng : Generator
        Source of turn, flips and shift.
    extent_um : tuple of float
        Size of the field along x, y, z.

    Returns
    -------
    Network
        Segments that come within `MARGIN_UM` of the field.
    """
    order = [1, 0, 2] if rng.random() < 0.5 else [0, 1, 2]
    size = np.array(network.extent_um)[order]
    flips = rng.random(3) < 0.5
    shift = rng.random(3) * size
    lines = [segment.line[:, order] for segment in network.segments]
    lines = [np.where(flips, size - line, line) for line in lines]
    extent = np.array(extent_um)
    first = np.floor((shift - MARGIN_UM) / size).astype(int)
    last = np.floor((shift + extent + MARGIN_UM) / size).astype(int)
    copies = itertools.product(*(range(a, b + 1) for a, b in zip(first, last, strict=True)))
    kept = []
    for copy in copies:
        # Every other copy is a mirror image, so that vessels go on over the borders.
        mirrored = np.array(copy) % 2 == 1
        for line, segment in zip(lines, network.segments, strict=True):
            moved = np.where(mirrored, size - line, line) + np.array(copy) * size - shift
            if ((moved > -MARGIN_UM) & (moved < extent + MARGIN_UM)).all(axis=1).any():
                kept.append(Segment(moved, segment.radius_um))
    return Network(tuple(kept), extent_um)


def _read_stack(path: Path) -> NDArray[np.bool_]:
    try:
        stack = tifffile.imread(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise InputError(f"{path}: not readable as a TIFF stack ({error})") from None
    if stack.ndim != 3 or not np.issubdtype(stack.dtype, np.integer):
        raise InputError(
            f"{path}: {stack.ndim} dimensions of {stack.dtype}; "
            "a stack of integer labels (planes, rows, columns) is expected"
        )
    if not stack.any():
        raise InputError(f"{path}: every label is 0, so there is no vessel in it")
    return np.asarray(stack > 0)


def _trace(voxels: NDArray[np.intp], spur: float) -> list[list[int]]:
    """Cut a skeleton at its branching points: lists of voxels in order, from end to end."""
    pairs = cKDTree(voxels).query_pairs(1.75, output_type="ndarray")  # all 26 neighbours
    # Corners of the voxel stairs are little triangles, no branching points: a spanning tree has
    # none. It cuts each loop of the network between two voxels, which is not seen.
    steps = np.linalg.norm(voxels[pairs[:, 0]] - voxels[pairs[:, 1]], axis=1)
    whole = sparse.coo_array((steps, pairs.T), (len(voxels), len(voxels)))
    kept = sparse.csgraph.minimum_spanning_tree(whole.tocsr()).tocoo()
    pairs = np.column_stack([kept.row, kept.col])
    graph = _join(pairs, len(voxels))
    branches = np.diff(graph.indptr) > 2
    at_branch = branches[pairs]
    _, part = sparse.csgraph.connected_components(_join(pairs[~at_branch.any(axis=1)], len(voxels)))
    # Voxels of one branching point stand for one of them, where all its vessels meet.
    _, joint = sparse.csgraph.connected_components(_join(pairs[at_branch.all(axis=1)], len(voxels)))
    meeting = {int(joint[index]): int(index) for index in np.flatnonzero(branches)}
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(~branches):
        members.setdefault(int(part[index]), []).append(int(index))
    neighbours = np.split(graph.indices, graph.indptr[1:-1])
    paths = []
    for some in members.values():
        path = _order(some, neighbours)
        first, last = (
            [meeting[int(joint[other])] for other in neighbours[end] if branches[other]]
            for end in (path[0], path[-1])
        )
        # What is short and ends in nothing is a bump of the surface, or a speck.
        if len(path) > 2 and (len(path) >= spur or (first and last)):
            paths.append([*first[:1], *path, *last[:1]])
    return paths


def _join(pairs: NDArray[np.intp], count: int) -> sparse.csr_array:
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return sparse.coo_array((np.ones(len(both)), both.T), (count, count)).tocsr()


def _order(some: list[int], neighbours: list[NDArray[np.int32]]) -> list[int]:
    """Bring the voxels of a path into their order."""
    inside = set(some)
    near = {index: [int(n) for n in neighbours[index] if int(n) in inside] for index in some}
    start = next((index for index in some if len(near[index]) < 2), some[0])
    path, seen = [start], {start}
    while ahead := [index for index in near[path[-1]] if index not in seen]:
        path.append(ahead[0])
        seen.add(ahead[0])
    return path


def _make_segment(place_zyx: F64, radius_um: F64, side_um: float) -> Segment:
    line = place_zyx[:, ::-1] + 0.5 * side_um
    sigma = SMOOTH_UM / side_um
    # Smoothed as the way from the straight line, mirrored with its sign changed at the ends, so
    # that those, where others join, stay where they are.
    straight = np.linspace(line[0], line[-1], len(line))
    way = line - straight
    mirrored = np.concatenate([-way[:0:-1], way, -way[-2::-1]])
    smooth = ndimage.gaussian_filter1d(mirrored, sigma, axis=0)[len(way) - 1 : 2 * len(way) - 1]
    fine = resample((straight + smooth)[None])[0]
    wide = ndimage.gaussian_filter1d(radius_um, sigma, mode="nearest")
    at = np.linspace(0, len(wide) - 1, len(fine))
    return Segment(fine, np.maximum(np.interp(at, np.arange(len(wide)), wide), MIN_RADIUS_UM))
