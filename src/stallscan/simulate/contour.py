"""The contour drawn around a segment."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

COLOUR = (255, 102, 0)  # docs/facts.md 5
# docs/facts.md 5 has 2.5 px after decoding: the codec halves the resolution of colour, which thins
# the line.
LINE_WIDTH_PX = (2.8, 4.0)
# Area inside an outline without its line. docs/facts.md 5 has 1,150 to 6,400 in five recordings;
# chosen wider, because all recordings span more than five do.
AREA_PX = (900, 9000)


@dataclass(frozen=True)
class Outline:
    """The drawn contour.

    Attributes
    ----------
    line : ndarray
        bool (H, W): pixels of the line.
    interior : ndarray
        bool (H, W): pixels that the contour encloses, including half of its line.
    """

    line: NDArray[np.bool_]
    interior: NDArray[np.bool_]

    @property
    def has_real_size(self) -> bool:
        """Whether the enclosed area is as in real recordings, `AREA_PX`."""
        return AREA_PX[0] <= int((self.interior & ~self.line).sum()) <= AREA_PX[1]


def draw_outline(
    line_px: NDArray[np.float64], shape: tuple[int, int], dilation_px: float, width_px: float = 3.0
) -> Outline:
    """Draw the contour around a segment's projection.

    Parameters
    ----------
    line_px : ndarray
        float64 (n, 2): projected centre line as column and row; may extend beyond the field.
    shape : tuple of int
        Rows and columns of the field.
    dilation_px : float
        Distance of the contour from the projected centre line.
    width_px : float
        Width of the drawn line, see `LINE_WIDTH_PX`.

    Returns
    -------
    Outline
        Cropped at the border of the field, where its line is open.
    """
    # Draw on a separate canvas: the contour is then open at the border, as in real recordings, and
    # the cost depends on the segment, not on the field.
    margin = int(dilation_px) + 12
    corner = np.floor(line_px.min(axis=0)).astype(int) - margin
    size = np.ceil(line_px.max(axis=0)).astype(int) + margin - corner
    canvas = np.full((size[1], size[0]), 255, np.uint8)
    cv2.polylines(canvas, [np.rint(line_px - corner).astype(np.int32)], False, 0, 1)
    near = (cv2.distanceTransform(canvas, cv2.DIST_L2, 5) <= dilation_px).astype(np.float32)
    smooth = (cv2.GaussianBlur(near, (0, 0), 3) > 0.5).astype(np.uint8)
    contour = max(cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    interior = cv2.drawContours(np.zeros_like(canvas), [contour], -1, 1, -1).astype(bool)
    fine = 4  # supersampling, for a line width of fractions of a pixel
    line = cv2.polylines(
        np.zeros((canvas.shape[0] * fine, canvas.shape[1] * fine), np.uint8),
        [contour * fine + fine // 2],
        True,
        255,
        round(width_px * fine),
    )
    drawn = cv2.resize(line, canvas.shape[::-1], interpolation=cv2.INTER_AREA) > 127
    return Outline(_place(drawn, corner, shape), _place(interior, corner, shape))


def _place(
    canvas: NDArray[np.bool_], corner: NDArray[np.int_], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Copy the canvas, whose corner is at `corner` (column, row), into an empty field."""
    field = np.zeros(shape, bool)
    start = np.maximum(corner, 0)
    stop = np.minimum(corner + canvas.shape[::-1], shape[::-1])
    if (stop > start).all():
        (left, top), (right, bottom) = start - corner, stop - corner
        field[start[1] : stop[1], start[0] : stop[0]] = canvas[top:bottom, left:right]
    return field
