"""The regions that drawn lines enclose: closed, dashed and slightly open contours.

Text, scale bars, arrows and dots enclose nothing, or far less than a vessel segment.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Box

Mask = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]

# A contour with fewer pixels is a speck (real ones have more than 140).
MIN_CONTOUR_PX = 40
# Smaller regions do not count as enclosed.
MIN_ENCLOSED_PX = 100
# The smallest enclosed area of a segment (real ones enclose more than 1,150 px, a 320 x 240 copy of
# one more than 400). Letters enclose less unless they are very large.
MIN_SEGMENT_PX = 200
# A region below this share of the largest one is a letter or a loop of the pen: areas of real
# segments differ by a factor of 6.
MIN_SHARE = 0.1
# A larger share of the image may be a frame around a segment: then `MIN_SHARE` does not apply.
MAX_SEGMENT_SHARE = 0.33
# A contour may cover this many times the area that it encloses (a line of 12 px around a real
# segment: 1.6). With more, it is filled, or text.
MAX_LINE_TO_AREA = 4.0
# Corners of real lines, 4 px wide, are at most this far from the enclosed region.
CORNER_PX = 7
# Dashes and dots are joined over gaps of at most this many pixels.
MAX_DASH_GAP_PX = 24
# Joined dashes must enclose this many times the pixels that they cover (drawn ones: 6 and more),
# unlike letters that happen to form a ring.
MIN_DASHED_AREA = 3.0
MIN_DASH_PX = 6
MAX_DASHES = 400
# An open contour is replaced by its convex hull if it covers this share of the hull's edge, and
# the hull is too large for a letter.
MIN_HULL_DRAWN = 0.7
MIN_HULL_PX = 400
# Margin around a piece that is processed by itself: more than the widest gap that is closed.
AROUND_PX = 12


class Enclosure(NamedTuple):
    """A contour and the region that it encloses.

    Attributes
    ----------
    line : ndarray
        bool (h, w): pixels of the contour, without anything that touches it.
    mask : ndarray
        bool (h, w): the enclosed region, without the contour.
    is_closed : bool
        Whether the contour, possibly with the image border, encloses the mask. If not, the mask is
        the convex hull.
    area : int
        Pixels of the mask.
    """

    line: Mask
    mask: Mask
    is_closed: bool
    area: int


def find(drawn: Mask, beyond: int) -> tuple[Mask, list[Enclosure]]:
    """Return all contours that enclose enough for a vessel segment, largest first.

    Parameters
    ----------
    drawn : ndarray
        bool (h, w): all pixels in the colour of an outline.
    beyond : int
        Pixels by which the image is larger than `drawn`; 0 for the whole image. If it is larger,
        nothing drawn may touch the border of `drawn`.

    Returns
    -------
    kept, enclosures
        bool (h, w): `drawn` without specks; and the contours. Nested and adjoining ones count
        separately.
    """
    labels, sizes = _labelled(drawn)
    sizes[sizes < MIN_CONTOUR_PX] = 0
    kept = drawn & (sizes > 0)[labels]
    pieces = list(_pieces(kept, labels, sizes))
    # Try in turn: each piece by itself, all pieces together, dashes, open contours.
    enclosures = [each for piece in pieces for each in _of_piece(piece, beyond, len(pieces) == 1)]
    if not enclosures and len(pieces) > 1:
        enclosures = [each for each in _of_piece(kept, beyond, True) if each.area >= kept.sum()]
    enclosures = enclosures or _of_dashes(drawn, beyond)
    enclosures = enclosures or [hull for piece in pieces for hull in _open(piece)]
    largest = max((each.area for each in enclosures), default=0)
    if largest <= MAX_SEGMENT_SHARE * (drawn.size + beyond):
        enclosures = [each for each in enclosures if each.area >= MIN_SHARE * largest]
    return kept, sorted(enclosures, key=lambda each: -each.area)


def enclosed(drawn: Mask, beyond: int) -> tuple[Mask, bool]:
    """Fill a contour, which the image border closes where the contour leaves the image.

    Parameters
    ----------
    drawn : ndarray
        bool (h, w): the contour.
    beyond : int
        As for `find`.

    Returns
    -------
    mask, is_closed
        bool (h, w), without the contour; and whether the contour encloses a region, after closing
        gaps of a few pixels. If not, the mask is the convex hull.
    """
    hull = _hull(drawn)
    mask, regions = _filled(drawn, hull, beyond, cuts_corners=True)
    return (mask, True) if regions else (hull & ~drawn, False)


def _filled(drawn: Mask, hull: Mask, beyond: int, cuts_corners: bool) -> tuple[Mask, int]:
    """Return the enclosed pixels, bool (h, w), and the number of enclosed regions.

    `cuts_corners` makes a line from border to border enclose the smaller side.
    """
    for gap in (1, 3, 5, 9):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap))
        # Pad by repetition, so that gaps at the image border are closed, too.
        padded = np.pad(drawn, gap, mode="edge").astype(np.uint8)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[gap:-gap, gap:-gap] > 0
        holes, regions = _holes(closed, hull, beyond, cuts_corners)
        mask = holes & ~drawn
        if mask.any():
            return mask, regions
    return np.zeros_like(drawn), 0


def box(pixels: Mask) -> Box:
    """Return the bounding box of the pixels, of which there must be at least one."""
    col, row, width, height = cv2.boundingRect(pixels.astype(np.uint8))
    return Box(row, row + height, col, col + width)


def _labelled(drawn: Mask, bridge: int = 5) -> tuple[Ints, Ints]:
    """Return the pieces of a drawing as labels from 1, int (h, w), and their sizes in pixels."""
    # Pieces of a contour with small gaps belong together: connect them before labelling.
    bridged = cv2.dilate(drawn.astype(np.uint8), np.ones((bridge, bridge), np.uint8))
    count, labels = cv2.connectedComponents(bridged, connectivity=8)
    numbers = np.asarray(labels, dtype=np.int32)
    return numbers, np.bincount(numbers[drawn], minlength=count)


def _pieces(drawn: Mask, labels: Ints, sizes: Ints) -> Iterator[Mask]:
    """Yield the pieces with a size above 0, bool (h, w).

    All pieces at the border of the image count as one: it may have cut a contour in two.
    """
    if np.count_nonzero(sizes) < 2:
        if drawn.any():
            yield drawn
        return
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_border = (np.bincount(edge, minlength=len(sizes)) > 0) & (sizes > 0)
    if at_border.any():
        yield drawn & at_border[labels]
    for label in np.flatnonzero(~at_border & (sizes > 0)):
        yield drawn & (labels == label)


def _of_piece(piece: Mask, beyond: int, cuts_corners: bool) -> list[Enclosure]:
    """Return the contours of one piece of the drawing, several if they touch."""
    around = box(piece).grown(AROUND_PX)
    if around.grown(0, piece.shape) != around:  # the image border may close this contour
        return _regions(piece, beyond, cuts_corners)
    # Process only the surroundings, which is faster.
    rest = beyond + piece.size - around.shape[0] * around.shape[1]
    enclosures = []
    for each in _regions(piece[around.slices], rest, cuts_corners):
        line, mask = np.zeros_like(piece), np.zeros_like(piece)
        line[around.slices], mask[around.slices] = each.line, each.mask
        enclosures.append(each._replace(line=line, mask=mask))
    return enclosures


def _regions(piece: Mask, beyond: int, cuts_corners: bool) -> list[Enclosure]:
    mask, regions = _filled(piece, _hull(piece), beyond, cuts_corners)
    if not regions:
        return []
    masks = [mask] if regions == 1 else _segments(piece, mask)
    enclosures = [Enclosure(_line(piece, each), each, True, int(each.sum())) for each in masks]
    return [each for each in enclosures if _is_contour(each)]


def _segments(piece: Mask, mask: Mask) -> list[Mask]:
    """Return the masks of the segments, bool (h, w), from the regions that a piece encloses."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_border = np.bincount(border, minlength=count) > 0
    large = areas >= max(MIN_ENCLOSED_PX, MIN_SHARE * areas.max())
    # A contour that leaves the image and returns encloses several regions at the border, which
    # belong to one segment.
    _, together = cv2.connectedComponents(
        cv2.dilate((piece | mask).astype(np.uint8), np.ones((3, 3), np.uint8)), connectivity=8
    )
    group = np.zeros(count, np.int64)
    group[labels.ravel()] = together.ravel()
    segments = [labels == label for label in np.flatnonzero(large & ~at_border)]
    for each in np.unique(group[large & at_border]):
        segments.append((at_border & (group == each))[labels] & mask)
    if len(segments) == 1:
        # Drop letters that touch the contour, keep crumbs of the mask itself.
        letters = ~large & ~at_border & (areas >= MIN_ENCLOSED_PX)
        return [mask & ~letters[labels]]
    return segments


def _is_contour(enclosure: Enclosure) -> bool:
    covered = cv2.countNonZero(enclosure.line.view(np.uint8))
    return enclosure.area >= MIN_SEGMENT_PX and covered <= MAX_LINE_TO_AREA * enclosure.area


def _line(piece: Mask, mask: Mask) -> Mask:
    """Return the contour of a mask without labels, arrows or scale bars that touch it."""
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * CORNER_PX + 1,) * 2, np.uint8)) > 0
    if not (piece & ~wide).any():
        return piece
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    # The median distance from the mask is half the width of the line; corners are farther away
    # than the full width.
    reach = 2.5 * float(np.median(away[piece])) + 2
    return np.asarray(piece & (away <= reach))


def _of_dashes(drawn: Mask, beyond: int) -> list[Enclosure]:
    """Return the contours of dashes or dots, each joined to its two nearest neighbours."""
    # Bridge less than for pieces, so that dashes stay separate.
    labels, sizes = _labelled(drawn, bridge=3)
    sizes[sizes < MIN_DASH_PX] = 0
    drawn = drawn & (sizes > 0)[labels]
    if not 3 <= np.count_nonzero(sizes[1:]) <= MAX_DASHES:
        return []
    labels = np.where(drawn, labels, 0)
    enclosures = []
    for ring in _rings(_gaps(labels)):
        dashes = np.isin(labels, [label for gap in ring for label in gap.pair])
        joined: Any = dashes.astype(np.uint8)
        for gap in ring:
            cv2.line(joined, gap.start, gap.end, 1, 2)
        for each in _of_piece(joined > 0, beyond, True):
            if each.area >= MIN_DASHED_AREA * np.count_nonzero(dashes):
                enclosures.append(each._replace(line=dashes, mask=each.mask & ~dashes))
    return enclosures


class _Gap(NamedTuple):
    """The gap between two dashes: their labels, and the nearest point (column, row) of each."""

    pair: tuple[int, int]
    start: tuple[int, int]
    end: tuple[int, int]


def _gaps(labels: Ints) -> list[_Gap]:
    """Return the gaps between neighbouring dashes, labelled int (h, w), narrowest first."""
    # For each pixel its distance to the nearest drawn pixel, and an id of that pixel: (h, w).
    distance, nearest = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    flat_index = np.zeros(int(nearest.max()) + 1, np.int64)  # id -> index in the flat image
    inside = np.flatnonzero(labels)
    flat_index[nearest.ravel()[inside]] = inside
    owner = labels.ravel()[flat_index][nearest]  # (h, w): label of the nearest dash
    # Neighbouring pixels with different owners are in the middle between two dashes.
    borders = []
    for step in ((slice(1, None), slice(None)), (slice(None), slice(1, None))):
        back = tuple(slice(None, -1) if each.start else each for each in step)
        differ = owner[step] != owner[back]
        borders.append(
            np.stack(
                [
                    nearest[back][differ],
                    nearest[step][differ],
                    10 * (distance[back][differ] + distance[step][differ]),
                ]
            )
        )
    first, second, width = np.concatenate(borders, axis=1).astype(np.int64)  # width in 0.1 px
    order = np.argsort(width, kind="stable")
    order = order[width[order] <= 10 * MAX_DASH_GAP_PX]
    ends = flat_index[np.stack([first[order], second[order]])]  # (2, n)
    pairs = np.sort(labels.ravel()[ends], axis=0)
    _, kept = np.unique(pairs, axis=1, return_index=True)  # the narrowest gap of each pair
    columns = labels.shape[1]
    return [
        _Gap(
            (int(pairs[0, each]), int(pairs[1, each])),
            (int(ends[0, each] % columns), int(ends[0, each] // columns)),
            (int(ends[1, each] % columns), int(ends[1, each] // columns)),
        )
        for each in np.sort(kept)
    ]


def _rings(gaps: Sequence[_Gap]) -> list[list[_Gap]]:
    """Bridge narrow gaps first, at most two per dash; return closed rings of at least 3 dashes."""
    bridged: dict[int, list[_Gap]] = {}
    for gap in gaps:
        if all(len(bridged.get(dash, [])) < 2 for dash in gap.pair):
            for dash in gap.pair:
                bridged.setdefault(dash, []).append(gap)
    rings, seen = [], set[int]()
    for dash in bridged:
        ring: list[_Gap] = []
        waiting = [dash]
        members = set[int]()
        while waiting:
            member = waiting.pop()
            if member not in seen:
                seen.add(member)
                members.add(member)
                ring += [gap for gap in bridged[member] if gap not in ring]
                waiting += [other for gap in bridged[member] for other in gap.pair]
        # A closed ring has as many gaps as dashes, an open chain one less.
        if len(members) >= 3 and len(ring) == len(members):
            rings.append(ring)
    return rings


def _open(piece: Mask) -> list[Enclosure]:
    """Return the convex hull of a contour that is nearly closed; empty if it is not."""
    hull = _hull(piece)
    edge = hull & ~(cv2.erode(np.pad(hull, 1).astype(np.uint8), np.ones((3, 3)))[1:-1, 1:-1] > 0)
    near = cv2.dilate(piece.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    mask = hull & ~piece
    area = int(mask.sum())
    drawn = np.count_nonzero(edge & near) / np.count_nonzero(edge)
    is_outline = drawn >= MIN_HULL_DRAWN and area >= max(MIN_HULL_PX, int(piece.sum()))
    return [Enclosure(piece, mask, False, area)] if is_outline else []


def _holes(contour: Mask, hull: Mask, beyond: int, cuts_corners: bool) -> tuple[Mask, int]:
    """Return the pixels (h, w) that contour and image border enclose, and how many regions."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (~contour).astype(np.uint8), connectivity=4
    )
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[labels[0, 0]] += beyond
    inside_hull = np.bincount(labels[hull], minlength=len(areas))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    at_border = np.bincount(border, minlength=len(areas)) > 0
    regions = areas >= MIN_ENCLOSED_PX
    regions[0] = False
    # A region at the border is enclosed if most of it is in the convex hull of the contour. The
    # corners outside a tightly cropped outline are not.
    is_enclosed = regions & (~at_border | (inside_hull >= 0.9 * areas))
    if not is_enclosed.any() and cuts_corners:
        # An arc across a corner of the image encloses a region that is not in its hull.
        is_enclosed = regions & (areas < areas[regions].max(initial=0))
    return np.asarray(is_enclosed[labels]), int(np.count_nonzero(is_enclosed))


def _hull(drawn: Mask) -> Mask:
    """Return the pixels of the convex hull, bool (h, w)."""
    rows, cols = np.nonzero(drawn)
    points = np.stack([cols, rows], axis=1).astype(np.int32)
    filled: Any = np.zeros(drawn.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return np.asarray(filled > 0)
