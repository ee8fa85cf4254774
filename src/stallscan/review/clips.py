"""The clips of the review page: all frames of a recording on one sheet, so that none is skipped.

Browsers cannot step through a video frame by frame; a sheet is drawn by the page itself. Clips are
made in separate processes, because a file may crash the decoder.
"""

import collections
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stallscan.errors import RecordingError, StoreError
from stallscan.recordings import video
from stallscan.recordings.limits import within_memory
from stallscan.recordings.recording import Frames
from stallscan.report import cards, stored
from stallscan.report.stored import NOT_FOUND, Shown, Stored
from stallscan.vessels.enclosure import Mask
from stallscan.words import without_path

MARGIN_PX = 20  # of the recording around the outline
QUALITY = 88  # of the JPEG file: dark cells stay distinct
SMOOTH_PX = 1.0  # of the outline: removes the stairs of its pixels
Lines = Sequence[NDArray[Any]]  # each (N, 1, 2), columns before rows
KEPT = 64  # clips in memory, about 0.3 MB each


@dataclass(frozen=True)
class Clip:
    """A clip as the page takes it.

    Attributes
    ----------
    sheet : bytes
        JPEG file with all frames, row by row; empty if the recording cannot be shown.
    columns, frames, width, height : int
        Frames in a row of the sheet and on the sheet, and the size of a frame, px.
    outline : list of list of list of float
        Polygons of the drawn outline: points of column and row, px.
    evidence : bytes
        PNG file of the evidence picture; empty without a single outline.
    note : str
        What the reviewer should know.
    """

    sheet: bytes = b""
    columns: int = 0
    frames: int = 0
    width: int = 0
    height: int = 0
    outline: tuple[list[list[float]], ...] = ()
    evidence: bytes = b""
    note: str = ""


def make(item: Shown) -> Clip:
    """Make the clip of a recording or of a store; if it cannot be read, the note says why."""
    if isinstance(item, Stored):
        return _make_stored(item)
    try:
        path = stored.path_of(item)
        with within_memory(path):
            recording = video.read_recording(path, hold_bytes=cards.HOLD_BYTES)
            found = cards.find_outline(recording)
            box, note = cards.find_region(recording, found, MARGIN_PX)
            step = cards.find_step(recording)
            # The page draws the outline itself.
            shown = cards.read_grey(recording, box, step, found)  # (F, H, W)
            evidence = b"" if found is None else cards.draw_evidence(shown, found, box)
    except RecordingError as error:
        return Clip(note=without_path(str(error), item.name))
    lines: Lines = ()
    if found is not None:
        lines = _trace(found.mask[box.slices])
    return _lay_out(shown, lines, evidence, cards.note_step(note, step))


def _make_stored(item: Stored) -> Clip:
    """Make a clip as it was prepared, with an evidence picture if the store has masks."""
    try:
        grey, mask, step = cards.read_stored(item)
    except StoreError as error:
        return Clip(note=cards.note_unreadable(error))
    evidence = b""
    lines: Lines = ()
    if mask is not None:
        _, encoded = cv2.imencode(".png", cards.draw_masked(grey, mask))
        evidence, lines = encoded.tobytes(), _trace(mask)
    return _lay_out(grey, lines, evidence, cards.note_step(item.note, step))


def _trace(mask: Mask) -> Lines:
    """Return the lines around a mask, bool (h, w)."""
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return lines


def _lay_out(shown: Frames, lines: Lines, evidence: bytes, note: str) -> Clip:
    """Lay all frames, uint8 (T, h, w), out on one sheet."""
    height, width = shown.shape[1:]
    scale = min(1.0, cards.CLIP_SIDE_PX / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)  # OpenCV: width first
    across = math.ceil(math.sqrt(len(shown) * size[1] / size[0]))
    down = math.ceil(len(shown) / across)
    sheet = np.zeros((down * size[1], across * size[0]), np.uint8)
    for number, frame in enumerate(shown):
        top, left = number // across * size[1], number % across * size[0]
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
        sheet[top : top + size[1], left : left + size[0]] = small
    _, encoded = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    smooth = (cv2.approxPolyDP(line, SMOOTH_PX, closed=True) for line in lines)
    polygons = tuple(((line[:, 0] + 0.5) * scale).round(2).tolist() for line in smooth)
    return Clip(encoded.tobytes(), across, len(shown), *size, polygons, evidence, note)


def crashed(_item: Shown, reason: str) -> Clip:
    """Return the clip of a file that crashed the decoder."""
    return Clip(note=cards.note_crash(reason))


class Cache:
    """Clips by number of the item, made once and kept until `KEPT` others were asked for."""

    def __init__(self, submit: Callable[[Shown], "Future[Clip]"], absent: str = NOT_FOUND) -> None:
        self._submit, self._absent = submit, absent
        self._lock = threading.Lock()
        self._clips: collections.OrderedDict[int, Future[Clip]] = collections.OrderedDict()

    def ask(self, number: int, item: Shown | None) -> "Future[Clip]":
        """Return the future of a clip; the first call starts making it."""
        with self._lock:
            if number not in self._clips:
                if item is None:
                    missing: Future[Clip] = Future()
                    missing.set_result(Clip(note=self._absent))
                    self._clips[number] = missing
                else:
                    self._clips[number] = self._submit(item)
                if len(self._clips) > KEPT:
                    self._clips.popitem(last=False)
            self._clips.move_to_end(number)
            return self._clips[number]

    def is_empty(self, number: int) -> bool:
        """Return whether a clip was made and cannot be shown; does not wait for it."""
        with self._lock:
            clip = self._clips.get(number)
        return clip is not None and clip.done() and not clip.result().sheet
