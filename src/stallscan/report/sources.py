"""Where the recordings of a run are now, and the clips of its store for those without a video.

The video is gone, or there never was one: the regions of a raw stack have only clips.

The report and the review page look here, so this module imports no plots.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from stallscan.calls import written
from stallscan.calls.predictions import stack_of
from stallscan.catalog.names import match
from stallscan.clips import store
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.recordings.find import Source
from stallscan.report import stored
from stallscan.report.stored import Predicted, Shown, Stored
from stallscan.runs import SOURCES_NAME
from stallscan.stamps import Stamp

Thing = TypeVar("Thing")

log = logging.getLogger("stallscan")


class Found(NamedTuple):
    """Where the recordings of a table are, by their names in it."""

    paths: dict[str, Path]
    stored: dict[str, Stored]  # the clips of those that are not there
    is_stack: bool  # whether they are the regions of a raw stack, which have no other video
    stamps: dict[str, Stamp]  # of the files when they were predicted, as far as known

    def shown(self, filename: str) -> Shown | None:
        """Return what is shown of a recording: its file, or its clip; None if neither was found."""
        path = self.paths.get(filename)
        if path is None:
            return self.stored.get(filename)
        stamp = self.stamps.get(filename)
        return path if stamp is None else Predicted(path, stamp)

    @property
    def absent(self) -> str:
        """What a reviewer should know of recordings of which there is neither."""
        return stored.NO_CLIP if self.is_stack else stored.NOT_FOUND


def find_sources(
    filenames: "pd.Series[str]",
    run: dict[str, Any],
    recordings: Sequence[str | Path] | None,
    predictions: Path,
) -> Found:
    """Find the recordings of a table, and in a store the clips of those that are gone.

    Parameters
    ----------
    filenames : Series
        Names in the table.
    run : dict
        From `predictions.read_run`: it lists what was predicted.
    recordings : sequence of str or Path, optional
        Where the recordings are, or a store of their clips, if they have moved since the run.
    predictions : Path
        The table, for messages.

    Raises
    ------
    InputError
        If `recordings` do not exist.
    """
    if recordings is None:
        opened, sources = _look_in_run(run)
    else:
        opened, sources = _look_in(recordings)
    paths = _match(filenames, {source.filename: source.path for source in sources}, predictions)
    gone = filenames[~filenames.isin(list(paths))]
    if len(gone) and opened is None and recordings is not None:
        opened, _ = _look_in_run(run)
    is_stack = bool(stack_of(run))
    # Those of clips say nothing of the files.
    stamps = {name: stamp for name, stamp in read_stamps(predictions).items() if stamp.bytes}
    if opened is not None:  # a run on a store knows its clips, and the store their files
        stamps = {row.filename: row.stamp for row in opened.rows() if row.stamp} | stamps
    if opened is None or gone.empty:
        return Found(paths, {}, is_stack, stamps)
    note = stored.CUT if is_stack else stored.PREPARED
    clip = opened.manifest.clip
    clips = {
        row.filename: Stored(opened.place(row.filename), clip, note)
        for row in opened.rows()
        if row.has_clip
    }
    return Found(paths, _match(gone, clips, predictions), is_stack, stamps)


def read_stamps(predictions: Path) -> dict[str, Stamp]:
    """Return the stamps of what was predicted, by filename; none if they cannot be read."""
    try:
        return written.read_stamps(predictions.parent)
    except InputError:
        log.warning(
            "%s: cannot be read, so a recording that was replaced is shown beside its old call, "
            "and its answers count. Restore it",
            predictions.parent / SOURCES_NAME,
        )
        return {}


def _match(
    filenames: "pd.Series[str]", things: dict[str, Thing], predictions: Path
) -> dict[str, Thing]:
    """Return the thing for each filename that has one."""
    if not things:
        return {}
    partners = match(filenames, pd.Series(list(things), dtype=filenames.dtype), predictions)
    pairs = zip(filenames, partners, strict=True)
    return {filename: things[partner] for filename, partner in pairs if partner in things}


def _look_in_run(run: dict[str, Any]) -> tuple[Store | None, Sequence[Source]]:
    """Look in what the run was given, as far as it still exists."""
    listed = run.get("paths")
    paths = [path for path in listed if isinstance(path, str)] if isinstance(listed, list) else []
    try:
        return _look_in([path for path in paths if Path(path).exists()])
    except InputError:
        return None, ()


def _look_in(paths: Sequence[str | Path]) -> tuple[Store | None, Sequence[Source]]:
    """Return the store and its source recordings that still exist, or no store and recordings."""
    opened = store.open_if_store(paths)
    if opened is None:
        return None, find.list_recordings(paths)
    return opened, [row.source for row in opened.rows() if row.source.path.is_file()]
