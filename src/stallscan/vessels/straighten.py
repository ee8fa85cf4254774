"""Straighten a vessel: find its centre line in an image, and sample frames along it."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csgraph

from stallscan.recordings.recording import Frames
from stallscan.vessels.lines import resample

F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMOOTH_PX = 2.0  # chosen: removes pixel stairs, keeps bends
# Cost of a step at the edge of the vessel relative to one at its centre. Chosen: the path then
# follows the middle without cutting bends.
EDGE_COST = 8.0
SHORTEST_PX = 10  # a shorter line shows nothing
LARGEST_PX = 60_000  # pixels of a vessel; the path through more takes seconds
# Steps to the four of the eight neighbours that come later, (rows, columns).
STEPS = ((0, 1), (1, -1), (1, 0), (1, 1))


def find_centre_line(vessel: Mask) -> F32 | None:
    """Find the centre line of the largest piece of a vessel.

    It joins the two points of the piece that are farthest apart along the vessel.

    Parameters
    ----------
    vessel : ndarray
        bool (h, w): the pixels of the vessel.

    Returns
    -------
    ndarray or None
        float32 (n, 2): rows and columns, 1 px apart; None if the piece is shorter than
        `SHORTEST_PX`, or too large to be one segment.
    """
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(vessel.astype(np.uint8))
    if count < 2:
        return None
    largest = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1
    piece = pieces == largest  # (h, w)
    if not SHORTEST_PX <= piece.sum() <= LARGEST_PX:
        return None
    places = np.argwhere(piece)  # (P, 2)
    graph = _connect(piece, places)
    # Twice from the farthest point: the second line is the longest of a piece without loops.
    start = int(csgraph.dijkstra(graph, indices=0).argmax())
    away, before = csgraph.dijkstra(graph, indices=start, return_predecessors=True)
    path = [int(away.argmax())]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    line = places[path].astype(float)  # (n, 2)
    if len(line) < SHORTEST_PX:
        return None
    smooth = gaussian_filter1d(line, SMOOTH_PX, axis=0, mode="nearest")
    return np.asarray(resample(smooth[None])[0], np.float32)


def _connect(piece: Mask, places: NDArray[np.int64]) -> sparse.csr_array:
    """Return the costs of steps between the neighbouring pixels of a piece, (P, P)."""
    depth = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    cost = 1 + EDGE_COST * (1 - depth / depth.max()) ** 2  # (h, w)
    number = np.full((piece.shape[0] + 1, piece.shape[1] + 2), -1)
    number[:-1, 1:-1][piece] = np.arange(len(places))
    rows, columns = places.T
    ends, costs = [], []
    for down, right in STEPS:
        neighbour = number[rows + down, columns + 1 + right]  # (P,)
        near = np.flatnonzero(neighbour >= 0)
        ends.append(np.stack([near, neighbour[near]]))
        there = cost[rows[near] + down, columns[near] + right]
        costs.append(np.hypot(down, right) * (cost[rows[near], columns[near]] + there) / 2)
    first, second = np.concatenate(ends, axis=1)
    values, shape = np.concatenate(costs), (len(places), len(places))
    half = sparse.coo_array((values, (first, second)), shape)
    return sparse.csr_array(half + half.T)


def sample_along(frames: Frames | F32, line: F32, half_width_px: int = 2) -> F32:
    """Sample frames along a line, averaged across it.

    Parameters
    ----------
    frames : ndarray
        uint8 or float32 (T, h, w).
    line : ndarray
        float32 (n, 2): rows and columns, 1 px apart.
    half_width_px : int
        Pixels on either side of the line that are averaged.

    Returns
    -------
    ndarray
        float32 (T, n), grey levels.
    """
    return sample(frames, spread_across(line, half_width_px))


def spread_across(line: F32, half_width_px: int) -> F32:
    """Return the points across each point of a line, 1 px apart: float32 (n, k, 2)."""
    along = np.gradient(line, axis=0)  # (n, 2)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-6
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    offsets = np.arange(-half_width_px, half_width_px + 1, dtype=np.float32)
    grid = line[:, None] + offsets[:, None] * normal[:, None]  # (n, offsets, 2)
    return np.asarray(grid, np.float32)


def sample(frames: Frames | F32, grid: F32) -> F32:
    """Sample frames, (T, h, w), at points, (n, k, 2), and average over k: float32 (T, n)."""
    rows, columns = (np.ascontiguousarray(grid[..., axis], np.float32) for axis in (0, 1))
    sampled = [
        cv2.remap(frame, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for frame in frames
    ]
    return np.asarray(np.stack(sampled).mean(axis=2), np.float32)
