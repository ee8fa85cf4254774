"""A real vessel network from a stack in which vessels are labelled: centre lines and radii."""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from stallscan.errors import InputError
from stallscan.simulate.network import resample

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

MARGIN_UM = 30.0  # chosen: what is farther from the field sends it no light
SMOOTH_UM = 2.0  # chosen: standard deviation that levels voxel stairs and keeps bends
MIN_RADIUS_UM = 1.5  # chosen: the thinnest real capillaries; less is a gap in the labelling
SPUR_UM = 12.0  # chosen: a dead end that stands out less is a bump of the labelled surface
SPECK_UM = 10.0  # chosen: a shorter piece that joins nothing is no vessel
HOLE_UM2 = 12.0  # chosen: a capillary's cross-section; a smaller hole in a plane is a slip
ISOTROPIC = 1.5  # chosen: voxels longer than this along one axis bend a skeleton
SURFACE_UM = 1.5  # chosen: blur along the planes where planes are far apart
LEVEL = 0.3  # chosen: below 0.5, so that vessels seen in one plane of several keep their width
FINE = np.array([1, 2, 2])  # steps of a skeleton in a voxel, see `_skeletonize`
PAD_UM = 12.0  # chosen: a skeleton stops a radius short of a cut face, so faces are moved away


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


@dataclass(frozen=True)
class Network:
    """Vessels in a box that begins at 0, 0, 0.

    Attributes
    ----------
    segments : tuple of Segment
        From branching to branching.
    extent_um : tuple of float
        Size of the box along x, y, z.
    """

    segments: tuple[Segment, ...]
    extent_um: tuple[float, float, float]


def read_network(path: Path, um_per_voxel: tuple[float, float, float]) -> Network:
    """Find the centre lines and radii of the vessels in a label stack.

    Parameters
    ----------
    path : Path
        TIFF stack (planes, rows, columns) of integers; all but 0 is vessel.
    um_per_voxel : tuple of float
        Size of a voxel along z, y, x in um, each above 0.

    Returns
    -------
    Network
        At least one segment; vessels that leave the stack end on its faces.

    Raises
    ------
    InputError
        If scikit-image is missing, or the file is no such stack or shows no vessel.
    """
    mask, sides_um = _make_cubes(_read_mask(path), um_per_voxel)
    shape = np.array(mask.shape)
    pad = np.minimum(np.rint(PAD_UM / sides_um).astype(int), shape - 1)
    # Mirrored over the faces, as `place` does with the lines; about the middle of the outer voxels.
    mask = _fill(np.pad(mask, [(n, n) for n in pad], mode="reflect"))
    steps = _skeletonize(mask)
    voxels = steps / FINE
    radius_um = _measure_radius(mask, voxels, sides_um)
    inside = ((voxels >= pad) & (voxels <= pad + shape - 1)).all(axis=1)
    place_um = ((voxels - pad + 0.5) * sides_um)[inside, ::-1]
    extent_um = (shape * sides_um)[::-1]
    segments = _clean(_trace(steps[inside], place_um, radius_um[inside]))
    if not segments:
        raise InputError(
            f"{path}: no labelled vessel is {SPECK_UM:g} um long; "
            "check the size of a voxel, and that the stack holds labels"
        )
    segments = _reach_faces(segments, extent_um, float(max(sides_um)))
    sigma_um = max(SMOOTH_UM, 1.5 * float(max(sides_um)))
    x_um, y_um, z_um = extent_um.tolist()
    return Network(tuple(_smooth(segment, sigma_um) for segment in segments), (x_um, y_um, z_um))


def place(network: Network, rng: Rng, extent_um: tuple[float, float, float]) -> Network:
    """Fill a field with a network: turned, flipped, shifted, and mirrored where it is too small.

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
        The segments, whole, that come within `MARGIN_UM` of the field. A vessel that meets its
        mirror image is one segment with it.
    """
    # Quarter turns about z are a swap of x and y with flips.
    order = [1, 0, 2] if rng.random() < 0.5 else [0, 1, 2]
    size, extent = np.array(network.extent_um)[order], np.array(extent_um)
    flips = rng.random(3) < 0.5
    shift = rng.random(3) * size
    first = np.floor((shift - MARGIN_UM) / size).astype(int)
    last = np.floor((shift + extent + MARGIN_UM) / size).astype(int)
    copies = itertools.product(*map(range, first.tolist(), (last + 1).tolist()))
    kept: list[Segment] = []
    for copy in np.array(list(copies)):
        # Every other copy is a mirror image, so that vessels go on across the faces.
        mirrored = (copy % 2 == 1) != flips
        for segment in network.segments:
            line = segment.line[:, order]
            # What lies in a face is its own mirror image.
            flat = [(np.abs(line - face) < SMOOTH_UM).all(axis=0) for face in (0, size)]
            if ((flat[0] | flat[1]) & (copy % 2 == 1)).any():
                continue
            line = np.where(mirrored, size - line, line) + copy * size - shift
            if ((line > -MARGIN_UM) & (line < extent + MARGIN_UM)).all(axis=1).any():
                kept.append(replace(segment, line=line))
    return Network(tuple(_join(_renumber(kept))), extent_um)


def _read_mask(path: Path) -> Mask:
    try:
        stack = tifffile.imread(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a TIFF stack of labels is expected") from None
    # Whatever tifffile's code stumbles over in a damaged file is raised as it comes.
    except Exception as error:  # noqa: BLE001
        hint = (
            "; install it with: pip install 'stallscan[lab]'" if "imagecodecs" in str(error) else ""
        )
        raise InputError(f"{path}: not readable as a TIFF stack ({error}){hint}") from None
    if stack.ndim != 3 or stack.dtype.kind not in "uib" or min(stack.shape[:2]) < 2:
        raise InputError(
            f"{path}: an array of {stack.dtype} {stack.shape}; "
            "expected a stack of integer labels (planes, rows, columns)"
        )
    if not stack.any():
        raise InputError(f"{path}: every label is 0; expected vessels labelled with other numbers")
    return np.asarray(stack != 0)


def _make_cubes(mask: Mask, um_per_voxel: tuple[float, float, float]) -> tuple[Mask, F64]:
    """Fill holes in the planes, and bring voxels that are far from cubes to cubes.

    Thick planes make terraces of an oblique vessel, and a skeleton has a spur on each of them; so
    they are blurred by half their distance before the surface is found anew.
    """
    sides_um = np.array(um_per_voxel, np.float64)
    plane = ndimage.generate_binary_structure(3, 1)
    plane[[0, 2]] = False
    holes, _ = ndimage.label(~mask, plane)
    small = np.bincount(holes.ravel()) * sides_um[1] * sides_um[2] < HOLE_UM2
    small[0] = False
    mask = mask | small[holes]
    if max(sides_um) <= ISOTROPIC * min(sides_um):
        return mask, sides_um
    # chosen: four cubes in the longest side; more take time and show nothing new
    side_um = max(min(sides_um), max(sides_um) / 4)
    wanted = np.rint(mask.shape * sides_um / side_um).astype(int)
    soft = mask.astype(np.float32)
    for axis, count in enumerate(wanted.tolist()):
        soft = _stretch(soft, axis, count)
    sides_um = mask.shape * sides_um / wanted
    sigma_um = np.maximum(0.5 * np.array(um_per_voxel), SURFACE_UM)
    soft = ndimage.gaussian_filter(soft, sigma_um / sides_um, truncate=3)
    return np.asarray(soft > LEVEL), sides_um


def _fill(mask: Mask) -> Mask:
    """Fill cavities, around which a skeleton would be a shell."""
    outside, count = ndimage.label(~mask)
    touching = np.zeros(count + 1, bool)
    for axis in range(3):
        for face in (0, -1):
            touching[np.take(outside, face, axis)] = True
    touching[0] = False
    return np.asarray(~touching[outside])


def _stretch(values: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
    """Interpolate linearly to `count` voxels along an axis; the faces stay where they are."""
    have = values.shape[axis]
    if have == count:
        return values
    at = np.clip((np.arange(count) + 0.5) * have / count - 0.5, 0, have - 1)
    low = np.minimum(at.astype(int), max(have - 2, 0))
    shape = [1, 1, 1]
    shape[axis] = count
    weight = (at - low).astype(np.float32).reshape(shape)
    above = np.take(values, np.minimum(low + 1, have - 1), axis)
    return np.asarray(np.take(values, low, axis) * (1 - weight) + above * weight)


def _skeletonize(mask: Mask) -> NDArray[np.int64]:
    """Find the voxels of the skeleton: int64 (n, 3), planes, half rows and half columns.

    scikit-image takes voxels off one side of a vessel, then off the other; one of even width comes
    to a single layer in between and is eaten up from its end. With rows between the rows and
    columns between the columns these widths are odd.
    """
    try:
        from skimage.morphology import skeletonize
    except ImportError:
        raise InputError(
            "label stacks need scikit-image; install it with: pip install 'stallscan[lab]'"
        ) from None
    fine = np.repeat(np.repeat(mask, 2, axis=1), 2, axis=2)[:, :-1, :-1]
    fine[:, 1::2] &= fine[:, 2::2]
    fine[..., 1::2] &= fine[..., 2::2]
    skeleton = skeletonize(fine, method="lee")  # type: ignore[no-untyped-call]
    return np.argwhere(skeleton)


def _measure_radius(mask: Mask, voxels: F64, sides_um: F64) -> F64:
    """Distance in um from each voxel of a skeleton to the surface: float64 (n,).

    It is the distance transform, but from a tree of the voxels just outside: a transform of the
    whole stack takes ten times as long. A skeleton runs up to a voxel beside the middle of its
    vessel, so the largest distance among the voxel and its six neighbours counts.
    """
    outside = np.argwhere(~mask & ndimage.binary_dilation(mask)) * sides_um
    if not len(outside):  # all is vessel
        return np.full(len(voxels), float(np.max(mask.shape * sides_um)))
    steps = np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    around = (voxels[:, None] + steps) * sides_um
    distance, _ = cKDTree(outside).query(around)
    # To the centre of the outer voxel, half a voxel beyond the surface: that makes up for the
    # roughness of a surface of voxels, of which the innermost one is nearest.
    return np.asarray(distance.max(axis=1))


def _trace(steps: NDArray[np.int64], place_um: F64, radius_um: F64) -> list[Segment]:
    """Cut a skeleton at its branchings; branch voxels that touch are one node, in their middle."""
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


def _clean(segments: list[Segment]) -> list[Segment]:
    """Leave out spurs and specks, and shrink what lies between two branchings inside a vessel."""
    count = -1
    while len(segments) != count:
        count = len(segments)
        segments = _join(_drop_spurs(_shrink(segments)))
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


def _join(segments: list[Segment]) -> list[Segment]:
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


def _reach_faces(segments: list[Segment], extent_um: F64, near_um: float) -> list[Segment]:
    """Let loose ends in the outermost voxels end on the face, where their mirror image goes on."""
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


def _smooth(segment: Segment, sigma_um: float) -> Segment:
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


def _renumber(segments: list[Segment]) -> list[Segment]:
    """Give one number to ends in one place."""
    if not segments:
        return []
    ends = np.concatenate([segment.line[[0, -1]] for segment in segments])
    pairs = cKDTree(ends).query_pairs(1e-3, output_type="ndarray")
    number = _connect(pairs.astype(np.int64), len(ends)).reshape(-1, 2)
    return [replace(one, ends=two) for one, two in zip(segments, number, strict=True)]
