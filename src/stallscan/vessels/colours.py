"""The colours in which outlines are drawn."""

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.recordings.recording import Frames
from stallscan.vessels.enclosure import Mask

# Least mean red minus mean blue of a contour pixel, a quarter of the drawn 255: chroma subsampling
# and resizing blur the contour. Grey pixels have 0.
MEAN_RED_OVER_BLUE = 60.0
# Hues from -20 to 72 degrees (red is 0, yellow 60): how much blue may exceed green and green may
# exceed red, as shares of red minus blue. Blurring changes the saturation, not the hue.
MOST_BLUE_OVER_GREEN = 0.35
MOST_GREEN_OVER_RED = 0.2


class ColourRule(NamedTuple):
    """A published rule for outline pixels: inclusive bounds of R, G, B, and the frames searched."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]
    frames: Literal["first", "all"]


# docs/facts.md 2 and 3; the first place publishes its bounds in the order B, G, R.
RULES: dict[str, ColourRule] = {
    "third-place": ColourRule((200, 0, 0), (255, 150, 150), "first"),
    "first-place": ColourRule((104, 13, 9), (255, 143, 98), "all"),
}


def in_range(frames: Frames, rule: ColourRule) -> NDArray[np.uint8]:
    """Return 255 where a pixel of (n, h, w, 3) follows the rule, else 0: uint8 (n, h * w)."""
    count, height, width, _ = frames.shape
    tall = cv2.inRange(frames.reshape(count * height, width, 3), rule.low, rule.high)
    return np.asarray(tall, dtype=np.uint8).reshape(count, height * width)


def warmth(picture: NDArray[np.float32]) -> Mask:
    """Return where an image (h, w, 3) has a colour of outlines, red to yellow: bool (h, w)."""
    red, green, blue = np.moveaxis(picture, -1, 0)
    excess = red - blue
    return np.asarray(
        (excess >= MEAN_RED_OVER_BLUE)
        & (blue - green <= MOST_BLUE_OVER_GREEN * excess)
        & (green - red <= MOST_GREEN_OVER_RED * excess)
    )
