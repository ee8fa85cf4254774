"""Conversion of a voxel skeleton to a graph of vessels: smooth centre lines with radii."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from stallscan.vessels.lines import resample

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

SMOOTH_UM = 2.0  # chosen: standard deviation that removes voxel stairs but keeps bends
MIN_RADIUS_UM = 1.5  # chosen: the thinnest real capillaries; less is a gap in the labels
SPUR_UM = 12.0  # chosen: a dead end that protrudes less is a bump of the labelled surface
DIRECTED_UM = 5.0  # chosen: the direction of a dead end is measured over this length
GAP_COSINE = 0.7  # chosen: largest angle, 45 degrees, between a dead end and the gap that follows
SPECK_UM = 10.0  # chosen: a shorter isolated piece is not a vessel


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
        int64 (2,): ids of the nodes at its first and last point. Segments that share a node are
        connected there; a node of a single segment is a dead end or on a face of the box.
    """

    line: F64
    radius_um: F64
    ends: NDArray[np.int64]


def trace(steps: NDArray[np.int64], place_um: F64, radius_um: F64) -> list[Segment]:
    """Split a skeleton at its branch points, into lines from voxel to voxel.

    Branch voxels that touch form one node, at their mean position.

    Parameters
    ----------
    steps : ndarray
        int64 (n, 3): the voxels of the skeleton, on a grid in which neighbours differ by 1.
    place_um : ndarray
        float64 (n, 3): their x, y, z in um.
    radius_um : ndarray
        float64 (n,): their distance to the surface of the vessel.
    """
    pairs = _find_pairs(steps, place_um)
    count = len(steps)
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in pairs.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    branch = np.array([len(adjacent) > 2 for adjacent in neighbours], bool)  # (n,)
    # Voxel -> node: shared by branch voxels that touch, and unique for each other voxel.
    node = _connect(pairs[branch[pairs].all(axis=1)], count)
    size = np.bincount(node)
    middle = np.stack([np.bincount(node, column) / size for column in place_um.T], axis=1)
    # Voxel -> chain of voxels between two branch points; group the voxels by chain.
    chain = _connect(pairs[~branch[pairs].any(axis=1)], count)
    members = np.flatnonzero(~branch)
    members = members[np.argsort(chain[members], kind="stable")]
    bounds = np.flatnonzero(np.diff(chain[members])) + 1
    segments = []
    for voxels in np.split(members, bounds) if len(members) else []:
        path = _walk(voxels.tolist(), neighbours, branch)
        ends = node[[path[0], path[-1]]].astype(np.int64)
        line = np.concatenate([middle[ends[:1]], place_um[path[1:-1]], middle[ends[1:]]])
        segments.append(Segment(line, radius_um[path], ends))
    return [segment for segment in segments if len(segment.line) > 1]


def _find_pairs(steps: NDArray[np.int64], place_um: F64) -> NDArray[np.int64]:
    """Return the 26-neighbour pairs without the longest side of each triangle: int64 (n, 2).

    Such triangles are the corners of voxel stairs, not branch points.
    """
    # Neighbours are at most sqrt(3) = 1.73 steps apart.
    pairs = cKDTree(steps).query_pairs(1.8, output_type="ndarray")
    length = ((place_um[pairs[:, 0]] - place_um[pairs[:, 1]]) ** 2).sum(axis=1).round(6)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], length))]
    count, rank = len(steps), np.arange(len(pairs))
    # All pairs from either end, by their first voxel: those of voxel v begin at first[v].
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    order = np.argsort(ends[:, 0], kind="stable")
    first = np.searchsorted(ends[order, 0], np.arange(count + 1))
    # For each pair (a, b) each neighbour c of a, and the rank of (a, c).
    many = first[pairs[:, 0] + 1] - first[pairs[:, 0]]
    pair = np.repeat(rank, many)
    begin = np.repeat(first[pairs[:, 0]] - np.cumsum(many) + many, many)
    side = order[begin + np.arange(len(pair))]
    c, rank_ac = ends[side, 1], np.tile(rank, 2)[side]
    # The rank of (b, c), if these are neighbours, too.
    keys = pairs.min(axis=1) * count + pairs.max(axis=1)
    by_key = np.argsort(keys)
    b = pairs[pair, 1]
    wanted = np.minimum(b, c) * count + np.maximum(b, c)
    place = by_key[np.minimum(np.searchsorted(keys[by_key], wanted), max(len(keys) - 1, 0))]
    longest = (keys[place] == wanted) & (rank_ac < pair) & (place < pair)
    kept = np.ones(len(pairs), bool)
    kept[pair[longest]] = False
    return np.asarray(pairs[kept], np.int64)


def _connect(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the connected component of each node of a graph: int64 (count,)."""
    graph = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (count, count))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], np.int64)


def _walk(voxels: list[int], neighbours: list[list[int]], branch: Mask) -> list[int]:
    """Return the voxels of a chain in order, including the branch voxels at its ends.

    A ring ends with its first voxel.
    """
    chained = {voxel: [each for each in neighbours[voxel] if not branch[each]] for voxel in voxels}
    path = [next((voxel for voxel in voxels if len(chained[voxel]) < 2), voxels[0])]
    seen = set(path)
    while ahead := [voxel for voxel in chained[path[-1]] if voxel not in seen]:
        path.append(ahead[0])
        seen.add(ahead[0])
    if len(chained[path[0]]) == 2:
        return [*path, path[0]]
    joints = [voxel for voxel in neighbours[path[0]] if branch[voxel]]
    if len(path) == 1:
        return joints[:1] + path + joints[1:]
    return joints + path + [voxel for voxel in neighbours[path[-1]] if branch[voxel]]


def bridge(segments: list[Segment], gap_um: float) -> list[Segment]:
    """Add segments across gaps between dead ends that point at each other, nearest ends first.

    Ends of segments that are too short to have a direction are left as they are.
    """
    degree = _count_ends(segments)
    ends = [
        (int(segment.ends[side]), *_point_outwards(segment, side))
        for segment in segments
        for side in (0, -1)
        if degree[segment.ends[side]] == 1 and length_um(segment) >= DIRECTED_UM
    ]
    if len(ends) < 2 or gap_um <= 0:
        return segments
    place = np.array([place for _, place, _, _ in ends])  # (n, 3)
    way = np.array([way for _, _, way, _ in ends])
    pairs = cKDTree(place).query_pairs(gap_um, output_type="ndarray")
    across = place[pairs[:, 1]] - place[pairs[:, 0]]
    gap = np.linalg.norm(across, axis=1)
    across /= np.maximum(gap, 1e-6)[:, None]
    aligned = ((way[pairs[:, 0]] * across).sum(axis=1) > GAP_COSINE) & (
        -(way[pairs[:, 1]] * across).sum(axis=1) > GAP_COSINE
    )
    bridged = list(segments)
    taken: set[int] = set()
    for a, b in pairs[aligned][np.argsort(gap[aligned], kind="stable")].tolist():
        if not {a, b} & taken:
            taken |= {a, b}
            radius_um = np.array([ends[a][3], ends[b][3]])
            line = place[[a, b]]
            bridged.append(Segment(line, radius_um, np.array([ends[a][0], ends[b][0]])))
    return bridged


def _point_outwards(segment: Segment, side: int) -> tuple[F64, F64, float]:
    """Return an end of a segment, the direction in which it points, and its radius."""
    line = segment.line if side == 0 else segment.line[::-1]
    away = np.linalg.norm(line - line[0], axis=1)
    before = line[int(np.argmax(away >= min(DIRECTED_UM, away.max())))]
    way = line[0] - before
    return line[0], way / max(float(np.linalg.norm(way)), 1e-6), float(segment.radius_um[side])


def clean(segments: list[Segment]) -> list[Segment]:
    """Remove spurs, specks, and segments between branch points that are inside a vessel.

    Repeats until nothing changes, because removing a spur joins two segments.
    """
    count = -1
    while len(segments) != count:
        count = len(segments)
        segments = join(_drop_spurs(_shrink(segments)))
    return segments


def _shrink(segments: list[Segment]) -> list[Segment]:
    """Merge branch points that are inside the same vessel, and remove rings inside a vessel."""
    degree = _count_ends(segments)
    moves: dict[int, tuple[int, F64]] = {}  # node -> node that replaces it, and where that is
    settled: set[int] = set()
    kept = []
    for segment in segments:
        a, b = segment.ends.tolist()
        wide = max(segment.radius_um[0], segment.radius_um[-1])
        joins = degree[a] > 1 and degree[b] > 1
        if joins and a != b and not {a, b} & settled and length_um(segment) < wide:
            settled |= {a, b}
            if segment.radius_um[0] >= segment.radius_um[-1]:
                moves[b] = (a, segment.line[0])
            else:
                moves[a] = (b, segment.line[-1])
        elif not joins or a != b or length_um(segment) > 2 * math.pi * wide:
            kept.append(segment)
    return [_move_ends(segment, moves) for segment in kept]


def _move_ends(segment: Segment, moves: dict[int, tuple[int, F64]]) -> Segment:
    for _ in range(2):  # one end, then the other; turning twice restores the order
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
    """Remove specks, and dead ends that hardly protrude from their vessel."""
    degree = _count_ends(segments)
    kept = []
    for segment in segments:
        loose = degree[segment.ends] == 1
        joint_um = float(segment.radius_um[[0, -1]][~loose].sum())
        least_um = SPECK_UM if loose.all() else joint_um + SPUR_UM if loose.any() else 0.0
        if length_um(segment) >= least_um:
            kept.append(segment)
    return kept


def join(segments: list[Segment]) -> list[Segment]:
    """Join each two segments at a node that no other segment shares."""
    pool = dict(enumerate(segments))
    meetings: dict[int, list[int]] = {}  # node -> its segments
    for index, segment in pool.items():
        for end in segment.ends.tolist():
            meetings.setdefault(end, []).append(index)
    for end, meeting in meetings.items():
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
        # At its other end, the second segment is now the first.
        far = meetings[int(second.ends[1])]
        far[far.index(meeting[1])] = meeting[0]
    return list(pool.values())


def _turn(segment: Segment) -> Segment:
    return Segment(segment.line[::-1], segment.radius_um[::-1], segment.ends[::-1])


def _count_ends(segments: list[Segment]) -> NDArray[np.int64]:
    ends = np.concatenate([np.zeros(0, np.int64), *(segment.ends for segment in segments)])
    return np.bincount(ends)


def length_um(segment: Segment) -> float:
    """Return the length of the line in um."""
    return float(np.linalg.norm(np.diff(segment.line, axis=0), axis=1).sum())


def reach_faces(segments: list[Segment], extent_um: F64, near_um: float) -> list[Segment]:
    """Extend dead ends near a face of the box to that face, where their mirror image continues.

    Parameters
    ----------
    segments : list of Segment
        In a box that starts at 0, 0, 0.
    extent_um : ndarray
        float64 (3,): size of the box along x, y, z.
    near_um : float
        Largest distance between end and face.
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
    """Return a segment with a smooth line of points 1 um apart and the same end points."""
    line = resample(segment.line[None])[0]  # (n, 3)
    radius_um = _spread(segment.radius_um, segment.line, line)
    reach = math.ceil(4 * sigma_um)
    # Continue the line as its own point reflection, so that smoothing keeps the end points.
    long = np.pad(line, [(reach, reach), (0, 0)], mode="reflect", reflect_type="odd")
    smooth = ndimage.gaussian_filter1d(long, sigma_um, axis=0)[reach:-reach]
    wide = ndimage.gaussian_filter1d(radius_um, sigma_um, mode="nearest")
    fine = resample(smooth[None])[0]
    wide = np.maximum(_spread(wide, smooth, fine), MIN_RADIUS_UM)
    return Segment(fine, wide, segment.ends)


def _spread(values: F64, source: F64, target: F64) -> F64:
    """Interpolate values along a line, (n,) and (n, 3), to the points of a similar line (m, 3)."""
    arcs = []
    for line in (source, target):
        arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        arcs.append(arc / (arc[-1] or 1.0))  # a point has no length
    return np.asarray(np.interp(arcs[1], arcs[0], values))


def number_ends(segments: list[Segment]) -> list[Segment]:
    """Return the segments with new node ids, equal where ends are at the same place."""
    if not segments:
        return []
    ends = np.concatenate([segment.line[[0, -1]] for segment in segments])
    pairs = cKDTree(ends).query_pairs(1e-3, output_type="ndarray")
    nodes = _connect(pairs.astype(np.int64), len(ends)).reshape(-1, 2)  # (segments, 2)
    return [replace(segment, ends=pair) for segment, pair in zip(segments, nodes, strict=True)]
