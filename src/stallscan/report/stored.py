"""Where the recordings of a run are now, and the clips of a store for those that are gone.

The report and the review page look here. This module imports no plots.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stallscan.catalog.names import match
from stallscan.clips import shard, store
from stallscan.clips.clip import ClipSettings
from stallscan.clips.shard import Place
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.recordings.find import Source
from stallscan.recordings.recording import Frames, to_grey
from stallscan.vessels.enclosure import Mask


class Stored(NamedTuple):
    """A clip of a store, small enough to be sent to the process that shows it."""

    place: Place
    settings: ClipSettings


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


def find_recordings(
    filenames: "pd.Series[str]",
    run: dict[str, Any],
    recordings: Sequence[str | Path] | None,
    predictions: Path,
) -> dict[str, Path]:
    """Map filenames in the table to current paths, without the recordings that are not found."""
    sources = _list_of_run(run) if recordings is None else _list(recordings)
    if not sources:
        return {}
    paths = {source.filename: source.path for source in sources}
    partners = match(filenames, pd.Series(list(paths), dtype=filenames.dtype), predictions)
    pairs = zip(filenames, partners, strict=True)
    return {filename: paths[partner] for filename, partner in pairs if partner in paths}


def find_stored(
    filenames: "pd.Series[str]",
    run: dict[str, Any],
    recordings: Sequence[str | Path] | None,
    predictions: Path,
) -> dict[str, Stored]:
    """Map filenames in the table to their prepared clips, if the run or the user names a store."""
    try:
        opened = store.open_if_store(recordings or ()) or store.open_if_store(_paths_of_run(run))
    except InputError:
        return {}
    names = [row.filename for row in opened.rows() if row.has_clip] if opened else []
    if opened is None or not names:
        return {}
    partners = match(filenames, pd.Series(names, dtype=filenames.dtype), predictions)
    settings = opened.manifest.clip
    pairs = zip(filenames, partners, strict=True)
    return {name: Stored(opened.place(other), settings) for name, other in pairs if other in opened}


def _list_of_run(run: dict[str, Any]) -> Sequence[Source]:
    """List the recordings of a run that still exist at their paths; empty if there are none."""
    try:
        return _list(_paths_of_run(run))
    except InputError:
        return []


def _paths_of_run(run: dict[str, Any]) -> list[str]:
    """Return what the run was given, as far as it still exists."""
    listed = run.get("paths")
    paths = [path for path in listed if isinstance(path, str)] if isinstance(listed, list) else []
    return [path for path in paths if Path(path).exists()]


def _list(paths: Sequence[str | Path]) -> Sequence[Source]:
    """List the recordings in `paths`, or the source recordings of a store that still exist."""
    opened = store.open_if_store(paths)
    if opened is None:
        return find.list_recordings(paths)
    return [row.source for row in opened.rows() if row.source.path.is_file()]


def without_path(reason: str, filename: str) -> str:
    """Remove the path at the start of a message, because the card already shows the filename."""
    # The path itself may contain a colon, so look for the filename.
    name = filename.replace("\\", "/").rsplit("/", maxsplit=1)[-1]
    head, separator, rest = reason.partition(f"{name}: ")
    is_path = separator and (not head or head[-1] in "/\\")
    return rest[:1].upper() + rest[1:] if is_path else reason
