"""The evidence picture of a recording: what stands still in the vessel, and what changes.

It is drawn from the recording alone; no net is involved. From left to right: the mean of the frames
in focus, with the centre line of the vessel; the change in time, from dark (none) to yellow; and
the vessel along its centre line, one row for each frame from top to bottom. Blood that stands still
is a vertical stripe there, blood that moves is oblique, broken or grey. Green marks the frames in
focus.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.nets import measures
from stallscan.recordings.recording import Frames
from stallscan.vessels.straighten import find_centre_line, sample_along

Colours = NDArray[np.uint8]  # (h, w, 3) BGR, as OpenCV writes it
F32 = NDArray[np.float32]

SIDE_PX = 150  # of the picture; the parts are scaled to this height
WIDEST_PX = 240  # of the part that shows the vessel along its line
# Of each of the others: a longer region is squeezed, because a WebP file has 16,383 px at most.
LONGEST_PX = 4 * SIDE_PX
GAP_PX = 6
MARK_PX = 4
GROUND = 13  # grey level between the parts, as around the clips of a report
LINE_COLOUR, MARK_COLOUR = (255, 200, 0), (80, 200, 80)  # BGR: light blue, green
# BGR, of Okabe and Ito: vermilion and blue; and the share of the colour where it counted most.
STALL_TINT, FLOW_TINT, MOST_TINT = (0, 94, 213), (178, 114, 0), 0.7
LEAST_CHANGE = 0.5  # of the logit; where all counts for less, the colours are weaker. Chosen
OUTSIDE = 0.4  # brightness of what is outside the outline, relative to the inside
# Change relative to the light that is shown in the brightest colour, chosen.
MOST_CHANGE = 0.2
JOINED_PX = 15  # gaps in the vessel up to this length are bridged: three cells
BEFORE = 5  # frames shown before and after those in focus


def draw(grey: Frames, mask: NDArray[np.bool_]) -> Colours:
    """Draw the evidence picture of the outlined region.

    Parameters
    ----------
    grey : ndarray
        uint8 (T, h, w), with the drawn outline painted out or outside of the mask.
    mask : ndarray
        bool (h, w): the region inside the outline.

    Returns
    -------
    ndarray
        uint8 (SIDE_PX, width, 3) BGR. Where no centre line is found, the third part shows the rows
        of the region instead.
    """
    pixels = np.empty((*grey.shape, 2), np.uint8)
    pixels[..., 0], pixels[..., 1] = grey, mask * np.uint8(255)
    found = measures.find_structure(pixels)
    sharp = found.frames[found.sharp]  # (n,): frames of the recording
    line = find_centre_line(_join_pieces(found, mask))
    low = found.low[..., found.sharp]  # (h', w', n)
    mean, change = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    mean[found.window] = low.mean(axis=2)
    if len(sharp) > 2:
        # The second difference: going in and out of focus is smooth in time. It multiplies the
        # variance of what is independent from frame to frame by 6.
        change[found.window] = np.diff(low, 2, axis=2).std(axis=2) / 6**0.5
    change /= mean + max(float(np.percentile(mean[mask], 75)), 1.0)
    light = _stretch(mean, mean[mask]) * np.where(mask, 1, OUTSIDE)
    parts = [
        _draw_line(_scaled(_grey(light), *_size(mask.shape)), line, mask.shape),
        _scaled(_heat(change / MOST_CHANGE, mask), *_size(mask.shape)),
        _along(grey, line, mask, sharp),
    ]
    gap = np.full((SIDE_PX, GAP_PX, 3), GROUND, np.uint8)
    row = [part for each in parts for part in (each, gap)][:-1]
    return np.concatenate(row, axis=1)


def draw_looked(mean: F32, mask: NDArray[np.bool_], change: F32) -> Colours:
    """Draw where a net looked, on the mean image.

    Parameters
    ----------
    mean, mask, change : ndarray
        (S, S): as in `calls.occlusion.Looked`.

    Returns
    -------
    ndarray
        uint8 (SIDE_PX, SIDE_PX, 3) BGR: orange where the place spoke for a stall, blue where it
        spoke for flow, stronger the more it counted.
    """
    light = _stretch(mean, mean[mask]) * np.where(mask, 1, OUTSIDE)
    weight = change / max(float(np.abs(change).max()), LEAST_CHANGE)  # -1..1
    tint = np.where(weight[..., None] > 0, STALL_TINT, FLOW_TINT)  # (S, S, 3)
    share = (MOST_TINT * np.abs(weight))[..., None]
    picture = (1 - share) * _grey(light) + share * tint
    return _scaled(picture.astype(np.uint8), *_size(mask.shape))


def _join_pieces(found: measures.Structure, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the vessel, (h, w), with the gaps between its pieces closed: cells may fill them."""
    vessel = np.zeros(mask.shape, np.uint8)
    vessel[found.window] = found.vessel
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (JOINED_PX, JOINED_PX))
    # Black around it, so that the edge of the image does not count as vessel.
    wide = cv2.morphologyEx(np.pad(vessel, JOINED_PX), cv2.MORPH_CLOSE, disc)
    return (wide[JOINED_PX:-JOINED_PX, JOINED_PX:-JOINED_PX] > 0) & mask


def _along(
    grey: Frames, line: F32 | None, mask: NDArray[np.bool_], sharp: NDArray[np.intp]
) -> Colours:
    """Show the vessel along its line (or the rows of the region), time down, around the focus."""
    first, last = max(int(sharp[0]) - BEFORE, 0), int(sharp[-1]) + BEFORE + 1
    shown = grey[first:last]  # (t, h, w)
    if line is not None:
        levels = sample_along(shown, line)  # (t, n)
    else:
        inside = np.flatnonzero(mask.any(axis=1))
        weight = mask[inside] / mask[inside].sum(axis=1, keepdims=True)
        levels = np.asarray((shown[:, inside] * weight).sum(axis=2), np.float32)
    picture = _grey(_stretch(levels, levels[sharp - first]))
    width = min(max(round(levels.shape[1] * SIDE_PX / mask.shape[0]), SIDE_PX // 2), WIDEST_PX)
    picture = _scaled(picture, width, SIDE_PX)
    marks = np.full((len(shown), 1, 3), GROUND, np.uint8)
    marks[sharp - first] = MARK_COLOUR
    return np.concatenate([_scaled(marks, MARK_PX, SIDE_PX), picture], axis=1)


def _heat(change: F32, mask: NDArray[np.bool_]) -> Colours:
    levels = (np.clip(change, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.asarray(np.where(mask[..., None], colours, colours // 3), np.uint8)


def _draw_line(picture: Colours, line: F32 | None, shape: tuple[int, ...]) -> Colours:
    if line is None:
        return picture
    scale = np.array(picture.shape[1::-1]) / shape[1::-1]  # along columns and rows
    # OpenCV wants columns before rows, and pixel centres at whole numbers.
    points = np.rint((line[:, ::-1] + 0.5) * scale - 0.5).astype(np.int32)
    drawn = cv2.polylines(picture.copy(), [points], False, LINE_COLOUR, 1, cv2.LINE_AA)
    # The start of the line is the left end of the vessel shown along it.
    drawn = cv2.circle(drawn, tuple(points[0].tolist()), 3, LINE_COLOUR, -1, cv2.LINE_AA)
    return np.asarray(drawn, np.uint8)


def _stretch(levels: F32, of: F32) -> F32:
    """Scale grey levels so that nearly all of some of them span 0 to 1."""
    low, high = np.percentile(of, [1, 99.5])
    return np.asarray(np.clip((levels - low) / max(float(high - low), 4.0), 0, 1), np.float32)


def _grey(levels: F32) -> Colours:
    return np.repeat((levels * 255).astype(np.uint8)[..., None], 3, axis=2)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the width and height at which a part of this shape is shown."""
    return min(max(round(SIDE_PX * shape[1] / shape[0]), 1), LONGEST_PX), SIDE_PX


def _scaled(picture: Colours, width: int, height: int) -> Colours:
    size = (width, height)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)
