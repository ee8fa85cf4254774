"""A random capillary network around a segment: nodes of degree three, curved edges, in um."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

F64 = NDArray[np.float64]
Rng = np.random.Generator

# Points on each edge before resampling; at most 8 um apart.
POINTS = 17
# Chosen: shorter edges look like knots, longer ones like wires.
EDGE_UM = (18.0, 130.0)
# Chosen: capillaries are rarely closer; closer ones would look like one.
CLEARANCE_UM = 10.0
# Weight of depth in distances. Chosen: vessels then prefer to run in the plane, as in the upper
# layers of the real stacks.
FLATNESS = 1.7


@dataclass(frozen=True)
class Network:
    """Curved vessels between branching points.

    Attributes
    ----------
    points : ndarray
        float64 (edges, `POINTS`, 3): x, y, z in um, evenly spaced in the curve's parameter.
    nodes : ndarray
        int (edges, 2): the nodes that each edge joins; 0 and 1 are the ends of the segment.
    """

    points: F64
    nodes: NDArray[np.int64]


def grow(rng: Rng, segment: F64, low: F64, high: F64, length_um3: float) -> Network:
    """Fill a box with a network that contains the segment; return the network without the segment.

    Random branching points are joined with nearby ones until three vessels meet in each. Vessels
    that would touch the segment are removed, and so are dead ends.

    Parameters
    ----------
    rng : Generator
        Random source.
    segment : ndarray
        float64 (n, 3): centre line in um; its ends are the nodes 0 and 1.
    low, high : ndarray
        float64 (3,): corners of the box in um.
    length_um3 : float
        Vessel length per um3; 1e-3 is 1 m per mm3.
    """
    # The mean length of an edge is about 70 um, and there are 1.5 edges per node of degree three.
    count = int(length_um3 * float(np.prod(high - low)) / 70 / 1.5)
    place = low + rng.random((count, 3)) * (high - low)  # (nodes, 3)
    place = place[cKDTree(segment).query(place, distance_upper_bound=20)[0] > 20]
    place = np.concatenate([segment[[0, -1]], place])
    nodes = _join(rng, place, segment)
    points = _bend(rng, place, nodes)
    clear = _is_clear(points, nodes, segment)
    nodes, points = nodes[clear], points[clear]
    inside: NDArray[np.bool_] = np.all((place > low + 25) & (place < high - 25), axis=1)
    kept = _without_dead_ends(nodes, inside)
    return Network(points[kept], nodes[kept])


def _join(rng: Rng, place: F64, segment: F64) -> NDArray[np.int64]:
    """Join nearby nodes until each has degree three; return int (edges, 2)."""
    flat = place * [1, 1, FLATNESS]
    distance, other = cKDTree(flat).query(flat, k=min(10, len(place)))
    first = np.repeat(np.arange(len(place)), distance.shape[1])
    second, distance = other.ravel(), distance.ravel()
    fits = (second > first) & (distance > EDGE_UM[0]) & (distance < EDGE_UM[1])
    first, second, distance = first[fits], second[fits], distance[fits]
    # Without jitter the nearest nodes are joined first, which gives many small triangles.
    order = np.argsort(distance * rng.uniform(0.7, 1.6, distance.size))
    free = np.full(len(place), 3)
    free[:2] = 2
    ways = {end: _ahead(segment, end) for end in (0, 1)}
    joined: list[set[int]] = [set() for _ in place]
    edges = []
    for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if free[a] and free[b]:
            # No branch turns back along the segment.
            if a in ways and float(np.dot(place[b] - place[a], ways[a])) < 0:
                continue
            # Real networks have no triangles.
            if joined[a] & joined[b]:
                continue
            joined[a].add(b)
            joined[b].add(a)
            free[a] -= 1
            free[b] -= 1
            edges.append((a, b))
    return np.array(edges, np.int64).reshape(-1, 2)


def _ahead(segment: F64, end: int) -> F64:
    near, far = (segment[0], segment[min(12, len(segment) - 1)])
    if end == 1:
        near, far = (segment[-1], segment[max(len(segment) - 13, 0)])
    return np.asarray(near - far)


def _bend(rng: Rng, place: F64, nodes: NDArray[np.int64]) -> F64:
    """Return Bezier curves that pass smoothly through the nodes: (edges, `POINTS`, 3)."""
    start, stop = place[nodes[:, 0]], place[nodes[:, 1]]
    chord = stop - start
    length = np.linalg.norm(chord, axis=1)[:, None]
    way = chord / length
    axis = _main_axes(way, nodes, len(place))
    controls = []
    for side, sign in ((0, 1.0), (1, -1.0)):
        through = axis[nodes[:, side]]
        through *= np.sign((through * way).sum(axis=1))[:, None]
        # Chosen: mostly along the axis of the node, partly straight, partly random.
        toward = 0.35 * way + 0.65 * through + 0.3 * rng.standard_normal(chord.shape)
        controls.append(place[nodes[:, side]] + sign * 0.42 * length * toward)
    one, two = controls
    t = np.linspace(0, 1, POINTS)[None, :, None]
    curve = (
        (1 - t) ** 3 * start[:, None]
        + 3 * (1 - t) ** 2 * t * one[:, None]
        + 3 * (1 - t) * t**2 * two[:, None]
        + t**3 * stop[:, None]
    )
    across = rng.standard_normal(chord.shape)[:, None]
    waves = rng.uniform(1, 2.5, (len(chord), 1, 1))
    phase = rng.uniform(0, 2 * math.pi, (len(chord), 1, 1))
    wave = np.sin(2 * math.pi * waves * t + phase) * np.sin(math.pi * t)
    return np.asarray(curve + 1.3 * wave * across)


def _main_axes(way: F64, nodes: NDArray[np.int64], count: int) -> F64:
    """Return the main axis, with arbitrary sign, of the edges at each node: (nodes, 3)."""
    products = way[:, :, None] * way[:, None, :]  # (edges, 3, 3)
    spread = np.zeros((count, 3, 3))
    for side in (0, 1):
        np.add.at(spread, nodes[:, side], products)
    return np.asarray(np.linalg.eigh(spread)[1][:, :, 2])


def _is_clear(points: F64, nodes: NDArray[np.int64], segment: F64) -> NDArray[np.bool_]:
    """Return whether each edge keeps clear of the segment, except at the end where it joins it."""
    low, high = segment.min(axis=0) - CLEARANCE_UM, segment.max(axis=0) + CLEARANCE_UM
    at = np.argwhere(((points > low) & (points < high)).all(axis=2))
    near = points[at[:, 0], at[:, 1]]  # (m, 3): points near the segment, of edges at[:, 0]
    ends = segment[[0, -1]]
    joined = (nodes[at[:, 0]][:, :, None] == [0, 1]).any(axis=1)
    from_end = np.linalg.norm(near[:, None] - ends, axis=2)
    at_joint = (joined & (from_end < 1.5 * CLEARANCE_UM)).any(axis=1)
    close = cKDTree(segment).query(near, distance_upper_bound=CLEARANCE_UM)[0] < CLEARANCE_UM
    clear = np.ones(len(points), bool)
    clear[at[close & ~at_joint, 0]] = False
    return clear


def _without_dead_ends(nodes: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Repeatedly remove edges with a free end inside the box; return the edges to keep."""
    kept = np.ones(len(nodes), bool)
    while True:
        degree = np.bincount(nodes[kept].ravel(), minlength=len(inside))
        degree[:2] += 1  # the segment itself
        dead = inside & (degree == 1)
        dead[:2] = False
        going = kept & dead[nodes].any(axis=1)
        if not going.any():
            return kept
        kept &= ~going
