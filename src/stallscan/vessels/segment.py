"""The vessel segments of a stack: ridges, their skeleton, its graph, and what is a capillary."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from scipy.spatial import cKDTree

from stallscan.vessels import centrelines
from stallscan.vessels.centrelines import Segment
from stallscan.vessels.labels import FINE
from stallscan.vessels.ridges import RidgeSettings, Skeleton, find_skeleton
from stallscan.vessels.slabs import Grid, Planes, Sides

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMOOTH_UM = 2.0  # chosen, as in `centrelines`: removes voxel stairs but keeps bends
# Ridges this close to a large vessel are its own blurred surface.
SURFACE_UM = 2.0
# An end this close to a large vessel is connected to it: the blur of both, and a voxel.
TOUCH_UM = 4.0
# The ends of a ring are the same point.
RING_UM = 1.0
# chosen, as in `simulate.recording`: half the depth in which a vessel of radius r is in focus is
# 1.18 times the standard deviation of its blur; the optics' own is 1.4 to 2.8 um
FOCUS_UM, FOCUS_SDS = 2.1, 1.18


class SegmentSettings(RidgeSettings):
    """Settings of `find_segments`.

    Attributes
    ----------
    least_um : float
        Shorter segments are left out.
    isolated_um : float
        The same for segments that are connected to no other vessel: bright cells and their
        processes are up to about 20 um long.
    gap_um : float
        Longest gap between two lines that is bridged. Blood cells are 4 to 8 um long and dark
        (docs/facts.md 5), and lines end up to 3 um before a cell.
    """

    least_um: float = Field(default=10.0, ge=0)
    isolated_um: float = Field(default=25.0, ge=0)
    gap_um: float = Field(default=14.0, ge=0)


@dataclass(frozen=True)
class Capillary:
    """A capillary between two branch points or ends.

    Attributes
    ----------
    line : ndarray
        float64 (n, 3): z, y, x in voxels of the stack, about 1 um apart, n at least 2.
    radius_um : float
        Median along the line.
    length_um : float
    tortuosity : float
        Length relative to the distance of the ends; NaN for a ring.
    branch_order : int or None
        1 for a branch of a large vessel, plus 1 for each branch point on the way to the nearest
        one; None without a way.
    planes : tuple of int
        First and last plane in which any of it is in focus.
    """

    line: F64
    radius_um: float
    length_um: float
    tortuosity: float
    branch_order: int | None
    planes: tuple[int, int]


@dataclass(frozen=True)
class Segmented:
    """What was found in a stack.

    Attributes
    ----------
    capillaries : tuple of Capillary
        From the top down, by their mean depth.
    large : tuple of ndarray
        float64 (n, 3): lines of vessels that were left out, like those of capillaries.
    large_area : ndarray
        bool (h, w): where a large vessel is at any depth, on a grid of about 1 um.
    """

    capillaries: tuple[Capillary, ...]
    large: tuple[F64, ...]
    large_area: Mask


def find_slab(grid: Grid, first: int, last: int, settings: RidgeSettings) -> Skeleton:
    """Return the skeleton of planes `first` to `last` of the grid."""
    large = np.zeros(grid.shape[1:], bool)
    parts = []
    for block in grid.read(first, last):
        part = find_skeleton(block, grid.sides_um, settings)
        height, width = part.large.shape
        top, left = (block.start[axis] + block.core[axis].start for axis in (1, 2))
        large[top : top + height, left : left + width] = part.large
        parts.append(part)
    return join_skeletons([replace(part, large=large) for part in parts])


def join_skeletons(parts: Sequence[Skeleton]) -> Skeleton:
    """Join the skeletons of slabs; `large` is where any of them shows a large vessel."""
    return Skeleton(
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.radius_um for part in parts]),
        np.concatenate([part.to_large_um for part in parts]),
        np.logical_or.reduce([part.large for part in parts]),
    )


def find_segments(
    planes: Planes,
    um_per_voxel: Sides,
    settings: SegmentSettings,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Segmented:
    """Find the capillaries of a stack.

    Parameters
    ----------
    planes : Planes
        Grey stack (Z, H, W), any numeric type; vessels are brighter than tissue.
    um_per_voxel : tuple of float
        Size of a voxel along z, y, x in um, each above 0.
    settings : SegmentSettings
        Thresholds in um and relative to the brightness of vessels.
    progress : callable
        Is told how many slabs are done, and of how many.
    """
    grid = Grid(planes, um_per_voxel)
    grid.measure_levels()
    if not grid.contrast:
        return Segmented((), (), np.zeros(grid.shape[1:], bool))
    slabs = grid.slabs()
    found = []
    for first, last in slabs:
        found.append(find_slab(grid, first, last, settings))
        progress(len(found), len(slabs))
    return connect(join_skeletons(found), grid, settings)


def connect(skeleton: Skeleton, grid: Grid, settings: SegmentSettings) -> Segmented:
    """Return the segments of a skeleton, capillaries apart from larger vessels."""
    outside = skeleton.to_large_um >= SURFACE_UM
    steps, radius_um = skeleton.steps[outside], skeleton.radius_um[outside]
    to_large_um = skeleton.to_large_um[outside]
    place_um = (steps / FINE + 0.5) * grid.sides_um  # (n, 3)
    if not len(steps):
        return Segmented((), (), skeleton.large)
    traced = centrelines.trace(steps, place_um, radius_um)
    segments = centrelines.clean(centrelines.bridge(traced, settings.gap_um))
    # Branch points that were merged may leave a segment without length between them.
    smooth = [
        centrelines.smooth(segment, SMOOTH_UM)
        for segment in segments
        if centrelines.length_um(segment) > 0
    ]
    is_large = [
        float(np.median(segment.radius_um)) > settings.capillary_radius_um for segment in smooth
    ]
    tips = np.array([segment.line[[0, -1]] for segment in smooth]).reshape(-1, 2, 3)
    touches = to_large_um[cKDTree(place_um).query(tips)[1]] < TOUCH_UM  # (n, 2)
    nodes = _number_nodes(smooth)  # (n, 2)
    orders = _count_branch_points(nodes, np.array(is_large, bool), touches)
    is_alone = ((np.bincount(nodes.ravel())[nodes] == 1) & ~touches).all(axis=1)
    scale = grid.sides_um / grid.ratio
    lines = [segment.line / scale - 0.5 for segment in smooth]
    capillaries = [
        _measure(segment, line, order, float(scale[0]), grid.planes)
        for segment, line, order, large, alone in zip(
            smooth, lines, orders, is_large, is_alone, strict=True
        )
        if not large
        and centrelines.length_um(segment) >= (settings.isolated_um if alone else settings.least_um)
    ]
    return Segmented(
        tuple(sorted(capillaries, key=lambda each: float(each.line[:, 0].mean()))),
        tuple(line for line, large in zip(lines, is_large, strict=True) if large),
        skeleton.large,
    )


def _number_nodes(segments: list[Segment]) -> NDArray[np.int64]:
    """Return the node at either end of each segment, numbered from 0: int64 (n, 2)."""
    ends = np.array([segment.ends for segment in segments], np.int64).reshape(-1, 2)
    return np.unique(ends, return_inverse=True)[1].reshape(-1, 2).astype(np.int64)


def _count_branch_points(
    nodes: NDArray[np.int64], is_large: Mask, touches: Mask
) -> list[int | None]:
    """Return the branch order of each segment, see `Capillary`.

    Parameters
    ----------
    nodes : ndarray
        int64 (n, 2): at the ends of each segment.
    is_large : ndarray
        bool (n,): whether it is a large vessel itself.
    touches : ndarray
        bool (n, 2): whether the end is at another large vessel.
    """
    sources = np.unique(nodes[touches | is_large[:, None]])
    if not len(sources):
        return [None] * len(nodes)
    small = nodes[~is_large]
    count = int(nodes.max()) + 1
    graph = sparse.coo_array((np.ones(len(small)), tuple(small.T)), (count, count)).tocsr()
    steps = sparse.csgraph.dijkstra(graph, False, sources, unweighted=True, min_only=True)
    nearest = steps[nodes].min(axis=1)
    return [int(each) + 1 if np.isfinite(each) else None for each in nearest]


def _measure(
    segment: Segment, line: F64, order: int | None, plane_um: float, planes: int
) -> Capillary:
    length_um = centrelines.length_um(segment)
    chord_um = float(np.linalg.norm(segment.line[-1] - segment.line[0]))
    radius_um = float(np.median(segment.radius_um))
    half = FOCUS_SDS * math.hypot(FOCUS_UM, radius_um / 2) / plane_um
    first = max(math.ceil(line[:, 0].min() - half), 0)
    last = min(math.floor(line[:, 0].max() + half), planes - 1)
    return Capillary(
        line,
        radius_um,
        length_um,
        length_um / chord_um if chord_um > RING_UM else math.nan,
        order,
        (first, max(first, last)),
    )
