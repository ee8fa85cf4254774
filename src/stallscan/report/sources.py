"""Where the recordings of a run are now, and the clips of its store for those that are gone.

The report and the review page look here, so this module imports no plots.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stallscan.catalog.names import match
from stallscan.clips import store
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.recordings.find import Source
from stallscan.report.stored import Stored


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
