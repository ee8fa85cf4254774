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
LEGEND_PX = 24  # height of a line of the legend
BORDER_PX = 6  # on both sides of its entries
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
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
    legend = _legend(counts, picture.shape[1])
    # A legend that is wider than the picture continues on white.
    spare = legend.shape[1] - picture.shape[1]
    picture = np.pad(picture, ((0, 0), (0, spare), (0, 0)), constant_values=255)
    write_bytes(path, _as_png(np.concatenate([picture, legend])))


def _legend(counts: Mapping[str, int], width: int) -> Frames:
    """Draw the number of each call, uint8 (h, w, 3), in as many lines as the width takes."""
    entries = {call: f"{count:,} {call}" for call, count in counts.items() if count}
    needed = [_width(text) + 2 * BORDER_PX for text in entries.values()]
    width = max(width, *needed, 0)
    legend = np.full((0, width, 3), 255, np.uint8)
    left = width
    for (call, text), across in zip(entries.items(), needed, strict=True):
        if left + across > width:
            legend = np.pad(legend, ((0, LEGEND_PX), (0, 0), (0, 0)), constant_values=255)
            left = 0
        at = (left + BORDER_PX, legend.shape[0] - 8)
        _put(legend, text, at, _levels(LINES[call][0]))
        left += across
    return legend


def _width(text: str) -> int:
    (width, _), _ = cv2.getTextSize(_ascii(text), FONT, FONT_SCALE, 1)
    return int(width)


def _put(picture: Frames, text: str, at: tuple[int, int], colour: tuple[int, ...]) -> None:
    """Draw a text in the picture, moved to the left if it would be cut off."""
    left = max(min(at[0], picture.shape[1] - _width(text)), 0)
    cv2.putText(picture, _ascii(text), (left, at[1]), FONT, FONT_SCALE, colour, 1, cv2.LINE_AA)


def _ascii(text: str) -> str:
    """Replace what OpenCV's font does not have."""
    return text.encode("ascii", "replace").decode()


def _levels(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * level) for level in to_rgb(colour))


def _as_png(picture: Frames) -> bytes:
    _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(png)
