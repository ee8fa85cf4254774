import cv2
import numpy as np
import pytest

from stallscan.vessels.straighten import find_centre_line, sample_along


def _drawn(points, width=5, shape=(60, 80)):
    image = np.zeros(shape, np.uint8)
    cv2.polylines(image, [np.array(points)[:, ::-1].astype(np.int32)], False, 1, width)
    return image > 0


def _distance(line, points):
    """Return how far the points of a line are from a polyline, at most."""
    far = np.ones((60, 80), np.uint8)
    cv2.polylines(far, [np.array(points)[:, ::-1].astype(np.int32)], False, 0, 1)
    distance = cv2.distanceTransform(far, cv2.DIST_L2, 5)
    rows, columns = np.rint(line).astype(int).T
    return distance[rows, columns].max()


@pytest.mark.parametrize(
    "points", [[(10, 8), (10, 70)], [(5, 40), (55, 40)], [(8, 8), (30, 30), (20, 60), (45, 72)]]
)
def test_the_line_runs_along_the_middle_from_end_to_end(points):
    line = find_centre_line(_drawn(points))
    assert _distance(line, points) < 2.5
    length = np.linalg.norm(np.diff(np.array(points, float), axis=0), axis=1).sum()
    assert len(line) == pytest.approx(length, abs=9)
    assert np.linalg.norm(np.diff(line, axis=0), axis=1) == pytest.approx(1, abs=0.05)
    ends = line if np.hypot(*(line[0] - points[0])) < 10 else line[::-1]
    assert np.hypot(*(ends[[0, -1]] - np.array(points)[[0, -1]]).T).max() < 6


def test_the_largest_piece_counts_and_a_speck_has_no_line():
    both = _drawn([(10, 8), (10, 70)]) | _drawn([(40, 10), (40, 18)])
    assert find_centre_line(both)[:, 0].max() < 15
    assert find_centre_line(np.zeros((20, 20), bool)) is None
    assert find_centre_line(_drawn([(20, 20), (20, 21)], width=1)) is None


def test_a_branch_is_left_out():
    line = find_centre_line(_drawn([(30, 5), (30, 75)]) | _drawn([(30, 40), (40, 40)], width=3))
    assert np.abs(line[:, 0] - 30).max() < 3


def test_what_stands_still_is_a_stripe_and_what_moves_is_oblique():
    frames = np.full((20, 40, 60), 100, np.uint8)
    frames[:, 17:24, 30:33] = 20  # a gap that stays
    for row in range(20):
        frames[row, 17:24, 10 + row // 2 : 13 + row // 2] = 20  # one that moves
    line = np.stack([np.full(50, 20.0), np.arange(5.0, 55.0)], axis=1).astype(np.float32)
    sampled = sample_along(frames, line)
    assert sampled.shape == (20, 50)
    assert sampled.dtype == np.float32
    assert (sampled[:, 26] == 20).all()
    dark = [int(np.flatnonzero(row[:20] < 50)[0]) for row in sampled]
    assert dark == [5 + row // 2 for row in range(20)]
    assert (sampled[:, 40:] == 100).all()
