"""A contact sheet: simulated segments, one row each, over their frames in focus."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan import files
from stallscan.recordings.recording import Frames
from stallscan.simulate.corpus import draw_labels
from stallscan.simulate.recording import Truth, region
from stallscan.simulate.settings import SheetSettings, SimulateSettings

# Sizes in pixels; chosen: legible, and narrow enough that 14 frames fit on a wide screen.
TEXT_PX, LINE_PX, GAP_PX = 150, 15, 3
WIDEST = 1.5  # chosen: maximum width of an image relative to the row height
AROUND = 2  # chosen: frames shown before and after those in focus


def write_sheet(path: Path, settings: SimulateSettings, sheet: SheetSettings | None = None) -> int:
    """Write a PNG file with the first flowing and the first stalled segments of a corpus.

    The corpus need not exist. Returns the number of segments shown.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    files.refuse_foreign(path, [b"\x89PNG"], "a PNG file")
    sheet = sheet or SheetSettings()
    labels = draw_labels(settings)
    chosen = [
        int(row) for label in (False, True) for row in np.flatnonzero(labels == label)[: sheet.rows]
    ]
    strips = [
        _strip(*region(settings.seed, row, bool(labels[row]), settings, sheet.margin_px), sheet)
        for row in chosen
    ]
    width = max(strip.shape[1] for strip in strips)
    picture = np.concatenate(
        [np.pad(strip, ((0, GAP_PX), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
    )
    _, png = cv2.imencode(".png", picture[..., ::-1])
    files.write_bytes(path, png.tobytes())
    return len(chosen)


def choose_frames(truth: Truth, count: int) -> NDArray[np.int64]:
    """Choose up to `count` distinct frames, evenly over those in focus and a few around them."""
    focused = truth.last_in_focus - truth.first_in_focus + 1
    around = max(AROUND, (count - focused + 1) // 2)
    first = max(truth.first_in_focus - around, 0)
    last = min(truth.last_in_focus + around, truth.frames - 1)
    return np.unique(np.rint(np.linspace(first, last, count)).astype(np.int64))


def _strip(frames: Frames, truth: Truth, sheet: SheetSettings) -> Frames:
    """Draw one row: text, then frames with their numbers above."""
    _, height, width, _ = frames.shape
    scale = sheet.row_px / max(height, width / WIDEST)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    chosen = choose_frames(truth, sheet.frames)
    shape = (LINE_PX + sheet.row_px, TEXT_PX + len(chosen) * (size[0] + GAP_PX), 3)
    strip = np.zeros(shape, np.uint8)
    for line, text in enumerate(_describe(truth), start=1):
        _put(strip, text, GAP_PX, line * LINE_PX)
    for place, frame in enumerate(chosen):
        left = TEXT_PX + place * (size[0] + GAP_PX)
        _put(strip, str(frame), left, LINE_PX - 4)
        # Area averaging to shrink, as in clips; cubic to enlarge without visible pixels.
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        strip[LINE_PX : LINE_PX + size[1], left : left + size[0]] = cv2.resize(
            np.ascontiguousarray(frames[frame]), size, interpolation=how
        )
    return strip


def _describe(truth: Truth) -> list[str]:
    return [
        f"{'STALLED' if truth.stalled else 'flowing'}: {truth.motion}",
        truth.kind,
        f"{truth.speed_um_s:.0f} um/s, {truth.frame_s:.2g} s/frame",
        truth.shape,
        f"project {truth.project}",
        f"difficulty: {truth.difficulty}",
    ]


def _put(picture: Frames, text: str, left: int, bottom: int) -> None:
    at, white = (left, bottom), (255, 255, 255)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, white, 1, cv2.LINE_AA)
