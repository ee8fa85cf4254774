"""From the voxels of a skeleton to vessels: smooth centre lines with radii that meet in nodes."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from stallscan.vessels.lines import resample

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMOOTH_UM = 2.0  # chosen: standard deviation that levels voxel stairs and keeps bends
MIN_RADIUS_UM = 1.5  # chosen: the thinnest real capillaries; less is a gap in the labelling
SPUR_UM = 12.0  # chosen: a dead end that stands out less is a bump of the labelled surface
SPECK_UM = 10.0  # chosen: a shorter piece that joins nothing is no vessel


@dataclass(frozen=True)
class Segment:
    """A vessel between two nodes.

    Attributes
    ----------
    line : ndarray
        float64 (n, 3): x, y, z in um, about 1 um apart, n at least 2.
    radius_um : ndarray
        float64 (n,): at least `MIN_RADIUS_UM`.
    ends : ndarray
        int64 (2,): numbers of the nodes at its first and its last point. Segments that share a
        number join there; a number of one segment only is a loose end or a face of the box.
    """

    line: F64
    radius_um: F64
    ends: NDArray[np.int64]


def trace(steps: NDArray[np.int64], place_um: F64, radius_um: F64) -> list[Segment]:
    """Cut a skeleton at its branchings; branch voxels that touch are one node, in their middle.

    Parameters
    ----------
    steps : ndarray
        int64 (n, 3): the voxels of the skeleton, on a grid in which neighbours differ by 1.
    place_um : ndarray
        float64 (n, 3): their x, y, z in um.
    radius_um : ndarray
        float64 (n,): their distance to the surface of the vessel.

    Returns
    -------
    list of Segment
        Lines from voxel to voxel, neither cleaned nor smooth.
    """
    pairs = _find_pairs(steps, place_um)
    count = len(steps)
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in pairs.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    branch = np.array([len(some) > 2 for some in neighbours], bool)
    node = _connect(pairs[branch[pairs].all(axis=1)], count)
    size = np.bincount(node)
    middle = np.stack([np.bincount(node, column) / size for column in place_um.T], axis=1)
    chain = _connect(pairs[~branch[pairs].any(axis=1)], count)
    members = np.flatnonzero(~branch)
    members = members[np.argsort(chain[members], kind="stable")]
    bounds = np.flatnonzero(np.diff(chain[members])) + 1
    segments = []
    for some in np.split(members, bounds) if len(members) else []:
        path = _walk(some.tolist(), neighbours, branch)
        # `node` is a number of its own for each voxel that is no branching.
        ends = node[[path[0], path[-1]]].astype(np.int64)
        line = np.concatenate([middle[ends[:1]], place_um[path[1:-1]], middle[ends[1:]]])
        segments.append(Segment(line, radius_um[path], ends))
    return [segment for segment in segments if len(segment.line) > 1]


def _find_pairs(steps: NDArray[np.int64], place_um: F64) -> NDArray[np.int64]:
    """Pairs of the 26-neighbourhood, less the longest side of each triangle: int64 (n, 2).

    The corners of voxel stairs are such triangles, and no branchings.
    """
    pairs = cKDTree(steps).query_pairs(1.8, output_type="ndarray")
    length = ((place_um[pairs[:, 0]] - place_um[pairs[:, 1]]) ** 2).sum(axis=1).round(6)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], length))]
    rank: list[dict[int, int]] = [{} for _ in steps]
    for index, (a, b) in enumerate(pairs.tolist()):
        rank[a][b] = rank[b][a] = index
    kept = [
        all(max(rank[a][c], rank[b][c]) > index for c in rank[a].keys() & rank[b].keys())
        for index, (a, b) in enumerate(pairs.tolist())
    ]
    return np.asarray(pairs[kept], np.int64)


def _connect(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Give each connected part of a graph a number: int64 (count,)."""
    graph = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], np.int64)


def _walk(some: list[int], neighbours: list[list[int]], branch: Mask) -> list[int]:
    """Order the voxels between two branchings, these included; a ring ends where it begins."""
    chained = {one: [other for other in neighbours[one] if not branch[other]] for one in some}
    path = [next((one for one in some if len(chained[one]) < 2), some[0])]
    seen = set(path)
    while ahead := [one for one in chained[path[-1]] if one not in seen]:
        path.append(ahead[0])
        seen.add(ahead[0])
    if len(chained[path[0]]) == 2:
        return [*path, path[0]]
    joints = [one for one in neighbours[path[0]] if branch[one]]
    if len(path) == 1:
        return joints[:1] + path + joints[1:]
    return joints + path + [one for one in neighbours[path[-1]] if branch[one]]


def clean(segments: list[Segment]) -> list[Segment]:
    """Leave out spurs and specks, and shrink what lies between two branchings inside a vessel.

    This is done again and again, until nothing changes: where a spur goes, two segments become one.
    """
    count = -1
    while len(segments) != count:
        count = len(segments)
        segments = join(_drop_spurs(_shrink(segments)))
    return segments


def _shrink(segments: list[Segment]) -> list[Segment]:
    """Make one branching of two that lie inside each other's vessel."""
    degree = _count_ends(segments)
    moves: dict[int, tuple[int, F64]] = {}
    settled: set[int] = set()
    kept = []
    for segment in segments:
        a, b = segment.ends.tolist()
        wide = max(segment.radius_um[0], segment.radius_um[-1])
        joins = degree[a] > 1 and degree[b] > 1
        if joins and a != b and not {a, b} & settled and _length_um(segment) < wide:
            settled |= {a, b}
            if segment.radius_um[0] >= segment.radius_um[-1]:
                moves[b] = (a, segment.line[0])
            else:
                moves[a] = (b, segment.line[-1])
        elif not joins or a != b or _length_um(segment) > 2 * math.pi * wide:
            kept.append(segment)  # and no ring inside a vessel
    return [_move_ends(segment, moves) for segment in kept]


def _move_ends(segment: Segment, moves: dict[int, tuple[int, F64]]) -> Segment:
    for _ in range(2):
        if int(segment.ends[0]) in moves:
            to, where = moves[int(segment.ends[0])]
            segment = Segment(
                np.concatenate([where[None], segment.line]),
                np.concatenate([segment.radius_um[:1], segment.radius_um]),
                np.array([to, segment.ends[1]]),
            )
        segment = _turn(segment)
    return segment


def _drop_spurs(segments: list[Segment]) -> list[Segment]:
    """Leave out dead ends that hardly stand out of the vessel they leave, and specks."""
    degree = _count_ends(segments)
    kept = []
    for segment in segments:
        loose = degree[segment.ends] == 1
        joint_um = float(segment.radius_um[[0, -1]][~loose].sum())
        least_um = SPECK_UM if loose.all() else joint_um + SPUR_UM if loose.any() else 0.0
        if _length_um(segment) >= least_um:
            kept.append(segment)
    return kept


def join(segments: list[Segment]) -> list[Segment]:
    """Make one segment of two where only they meet."""
    pool = dict(enumerate(segments))
    at: dict[int, list[int]] = {}
    for index, segment in pool.items():
        for end in segment.ends.tolist():
            at.setdefault(end, []).append(index)
    for end, meeting in at.items():
        if len(meeting) != 2 or meeting[0] == meeting[1]:
            continue
        first, second = pool[meeting[0]], pool.pop(meeting[1])
        first = first if first.ends[1] == end else _turn(first)
        second = second if second.ends[0] == end else _turn(second)
        pool[meeting[0]] = Segment(
            np.concatenate([first.line, second.line[1:]]),
            np.concatenate([first.radius_um, second.radius_um[1:]]),
            np.array([first.ends[0], second.ends[1]]),
        )
        far = at[int(second.ends[1])]
        far[far.index(meeting[1])] = meeting[0]
    return list(pool.values())


def _turn(segment: Segment) -> Segment:
    return Segment(segment.line[::-1], segment.radius_um[::-1], segment.ends[::-1])


def _count_ends(segments: list[Segment]) -> NDArray[np.int64]:
    ends = np.concatenate([np.zeros(0, np.int64), *(segment.ends for segment in segments)])
    return np.bincount(ends)


def _length_um(segment: Segment) -> float:
    return float(np.linalg.norm(np.diff(segment.line, axis=0), axis=1).sum())


def reach_faces(segments: list[Segment], extent_um: F64, near_um: float) -> list[Segment]:
    """Let loose ends in the outermost voxels end on the face, where their mirror image goes on.

    Parameters
    ----------
    segments : list of Segment
        In the box.
    extent_um : ndarray
        float64 (3,): size of the box along x, y, z; it begins at 0.
    near_um : float
        How near to a face an end must be.
    """
    degree = _count_ends(segments)
    reached = []
    for segment in segments:
        line, radius_um = segment.line, segment.radius_um
        for side in (0, -1):
            end = line[side]
            face = np.where(
                end <= near_um, 0.0, np.where(end >= extent_um - near_um, extent_um, end)
            )
            if degree[segment.ends[side]] == 1 and (face != end).any():
                line = np.insert(line, 0 if side == 0 else len(line), face, axis=0)
                radius_um = np.insert(
                    radius_um, 0 if side == 0 else len(radius_um), radius_um[side]
                )
        reached.append(Segment(line, radius_um, segment.ends))
    return reached


def smooth(segment: Segment, sigma_um: float) -> Segment:
    """Bring a path of voxels to points 1 um apart on a smooth line with the same end points."""
    line = resample(segment.line[None])[0]
    radius_um = _spread(segment.radius_um, segment.line, line)
    reach = math.ceil(4 * sigma_um)
    # Continued as its own point reflection, so that what is smoothed ends where it did.
    long = np.pad(line, [(reach, reach), (0, 0)], mode="reflect", reflect_type="odd")
    smooth = ndimage.gaussian_filter1d(long, sigma_um, axis=0)[reach:-reach]
    wide = ndimage.gaussian_filter1d(radius_um, sigma_um, mode="nearest")
    fine = resample(smooth[None])[0]
    wide = np.maximum(_spread(wide, smooth, fine), MIN_RADIUS_UM)
    return Segment(fine, wide, segment.ends)


def _spread(values: F64, known: F64, wanted: F64) -> F64:
    """Interpolate what is known along one line to the points of another of the same course."""
    arcs = []
    for line in (known, wanted):
        arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        arcs.append(arc / arc[-1])
    return np.asarray(np.interp(arcs[1], arcs[0], values))


def number_ends(segments: list[Segment]) -> list[Segment]:
    """Give one number to ends in one place."""
    if not segments:
        return []
    ends = np.concatenate([segment.line[[0, -1]] for segment in segments])
    pairs = cKDTree(ends).query_pairs(1e-3, output_type="ndarray")
    number = _connect(pairs.astype(np.int64), len(ends)).reshape(-1, 2)
    return [replace(one, ends=two) for one, two in zip(segments, number, strict=True)]
