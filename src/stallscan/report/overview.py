"""A picture of a stack with the outline of each region in the colour of its call."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from matplotlib.colors import to_rgb

from stallscan.files import write_bytes
from stallscan.recordings.recording import Frames
from stallscan.report.style import FLOWING, GREEN, GREY, STALLED
from stallscan.vessels.regions import Region

# Longest side of the picture, pixels; it is not enlarged.
LONGEST_PX = 2000
LEGEND_PX = 24
# Colour and width of a line, by call; stalled ones are drawn last.
LINES = {
    "unscorable": (GREY, 1),
    "flowing": (FLOWING, 1),
    "review": (GREEN, 2),
    "stalled": (STALLED, 2),
}


def write_overview(path: str | Path, brightest: Frames, regions: list[tuple[Region, str]]) -> None:
    """Write a PNG.

    Parameters
    ----------
    brightest : ndarray
        uint8 (H, W): the stack, projected along its frames.
    regions : list of tuple
        Each region and its call.
    """
    scale = min(LONGEST_PX / max(brightest.shape), 1.0)
    size = tuple(max(round(side * scale), 1) for side in brightest.shape[::-1])
    grey = cv2.resize(brightest, size, interpolation=cv2.INTER_AREA)
    picture = np.asarray(np.repeat(grey[..., None], 3, axis=-1), np.uint8)  # (h, w, 3) RGB
    order = list(LINES)
    for region, call in sorted(regions, key=lambda each: order.index(each[1])):
        colour, width = LINES[call]
        mask = np.pad(region.mask, 1).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        corner = np.array([region.box.col0 - 1, region.box.row0 - 1])
        lines = [np.rint((line + corner) * scale).astype(np.int32) for line in contours]
        cv2.polylines(picture, lines, True, _levels(colour), width, cv2.LINE_AA)
        if call == "stalled":
            left, bottom = (int(value) for value in lines[0].reshape(-1, 2).min(axis=0))
            _put(picture, region.name, (left, max(bottom - 3, 10)), _levels(colour))
    counts = {call: sum(each == call for _, each in regions) for call in reversed(order)}
    strip = _legend(counts, picture.shape[1])
    write_bytes(path, _as_png(np.concatenate([picture, strip])))


def _legend(counts: Mapping[str, int], width: int) -> Frames:
    strip = np.full((LEGEND_PX, width, 3), 255, np.uint8)
    left = 6
    for call, count in counts.items():
        if count:
            text = f"{count:,} {call}"
            _put(strip, text, (left, LEGEND_PX - 8), _levels(LINES[call][0]))
            left += 9 * len(text) + 12
    return strip


def _put(picture: Frames, text: str, at: tuple[int, int], colour: tuple[int, ...]) -> None:
    # OpenCV's font has no other characters.
    text = text.encode("ascii", "replace").decode()
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


def _levels(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * level) for level in to_rgb(colour))


def _as_png(picture: Frames) -> bytes:
    _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(png)
