"""What is shown of a recording: its file as it was predicted, or the clip of a store.

There are clips of recordings that are gone, and of the regions of a raw stack.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from stallscan.clips import shard
from stallscan.clips.clip import ClipSettings
from stallscan.clips.shard import Place
from stallscan.errors import UnreadableError
from stallscan.recordings.recording import Frames, to_grey
from stallscan.stamps import Stamp
from stallscan.vessels.enclosure import Mask

# What a reviewer should know of a clip of a store, and of a recording that cannot be shown.
PREPARED = "The recording was not found, so its prepared clip is shown."
CUT = "The clip was cut from the stack."
NOT_FOUND = "The recording was not found."
NO_CLIP = "No clip could be cut from the stack."


class Predicted(NamedTuple):
    """A recording, and the stamp of its file when it was predicted."""

    path: Path
    stamp: Stamp

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name


class Stored(NamedTuple):
    """A clip of a store, small enough to be sent to the process that shows it."""

    place: Place
    settings: ClipSettings
    note: str = PREPARED


Shown = Path | Predicted | Stored


def path_of(item: Path | Predicted) -> Path:
    """Return the path of a recording.

    Raises
    ------
    UnreadableError
        If another file is there now: a call must not stand beside the picture of another recording.
    """
    if isinstance(item, Path):
        return item
    if item.stamp.is_replaced(item.path):
        raise UnreadableError(
            f"{item.path}: this is another file than the one that was predicted, so it is not "
            "shown. Predict again, or give the folder of the right one with --recordings"
        )
    return item.path


def read(item: Stored) -> tuple[Frames, Mask | None]:
    """Read a clip as it can be shown.

    Returns
    -------
    grey : ndarray
        uint8 (T, h, w), without the black borders and black frames that fill up a clip.
    mask : ndarray or None
        bool (h, w): the region inside the outline, if the clip has it.

    Raises
    ------
    StoreError
        If the clip cannot be read or its pixels have changed.
    """
    pixels = shard.read_clip(item.place, item.settings)  # uint8 (T, S, S, C)
    channels, mask = item.settings.channels, None
    if channels in ("rgb", "bgr"):
        grey = to_grey(np.ascontiguousarray(pixels[..., :: 1 if channels == "rgb" else -1]))
    else:
        grey = pixels[..., 0]
    filled = [
        np.flatnonzero(grey.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))
    ]  # frames, rows, columns
    if not all(map(len, filled)):
        return grey, None
    inner = tuple(slice(places[0], places[-1] + 1) for places in filled)
    if channels == "grey+mask":
        inside = pixels[0, ..., 1] > 127  # (S, S)
        mask = inside[inner[1:]] if inside[inner[1:]].any() else None
    return grey[inner], mask
