"""Find the inputs of a command: recordings, or a store of their clips."""

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stallscan import workers
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.clips import prepare, store
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.shard import Row
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recordings.find import Source, find_recordings
from stallscan.stamps import Stamp

# Fewer recordings are decoded in this process: starting another takes 0.5 s of processor time
# (measured), a quarter of all that `predict` takes for one recording.
FEW = 3


@dataclass(frozen=True)
class Inputs:
    """Recordings, and how to get their clips."""

    sources: Sequence[Source]
    # Identify the content of each source, as a file or as recorded in the store.
    stamps: Sequence[Stamp | None]
    # Takes some of the sources, in this order, and yields them prepared.
    stream: Callable[[Sequence[Source]], Generator[Prepared, None, None]]
    from_store: bool = False  # whether the clips come from a store
    # Files and folders that are not read, as `find.PassedOver.as_dict` returns them.
    passed_over: dict[str, Any] = field(default_factory=dict)


def find(
    paths: Sequence[str | Path],
    members: Sequence[Bundle],
    processes: int | None = None,
    after_death: bool = False,
) -> Inputs:
    """Find recordings, and prepare to stream their clips for each bundle.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store.
    members : sequence of Bundle
        Each gets a clip of its own from every recording.
    processes : int, optional
        Decoding processes, as in `prepare.many`; by default 0 for one or two recordings.
    after_death : bool
        Whether an earlier run did not end by itself. A decoder may have crashed, so that by default
        also one or two recordings are decoded in another process.

    Raises
    ------
    InputError
        If there are no recordings, a store is given together with other paths, or the number of
        processes is invalid.
    StoreError
        If the store is damaged, or its clips do not suit every bundle.
    """
    workers.count(processes)
    clips = store.open_if_store(paths)
    if clips is None:
        sources, passed_over = find_recordings(paths)
        views = [member.spec.view for member in members]
        # Count all recordings, not only the pending ones: a pending one may have crashed a decoder.
        if processes is None and len(sources) < FEW and not after_death:
            processes = 0
        stamps = [Stamp.of(source.path) for source in sources]
        return Inputs(
            sources,
            stamps,
            lambda todo: prepare.many(todo, views, processes),
            passed_over=passed_over.as_dict(),
        )
    for member in members:
        clips.require(member.spec.view, f"the bundle {member.label}", f"--bundle {member.path}")
    clips.warn_of_replaced()
    return of_store(clips, clips.rows(), len(members))


def of_store(clips: Store, rows: Iterable[Row], members: int) -> Inputs:
    """Return recordings of a store, whose one clip is repeated for each of the bundles."""
    pairs = [(row.source, row.as_stamp()) for row in rows]
    return Inputs(
        [source for source, _ in pairs],
        [stamp for _, stamp in pairs],
        functools.partial(_stream, clips, members),
        from_store=True,
    )


def view_of(which: str | Path) -> Preprocessing:
    """Return how a bundle, or every member of an ensemble, preprocesses recordings.

    Parameters
    ----------
    which : str or Path
        Name of a shipped bundle, or the folder of a bundle or ensemble.

    Raises
    ------
    BundleError
        If the bundle cannot be used.
    InputError
        If the members differ in their preprocessing.
    """
    members = disk.load_any(which).members
    seeing: dict[Preprocessing, list[str]] = {}
    for member in members:
        seeing.setdefault(member.spec.view, []).append(str(member.path))
    if len(seeing) > 1:
        raise InputError(
            f"{which}: the members of this ensemble preprocess recordings differently, and a "
            f"store has clips of one kind. Make one store for each: --bundle "
            f"{', or --bundle '.join(paths[0] for paths in seeing.values())}"
        )
    return members[0].spec.view


def _stream(clips: Store, members: int, todo: Sequence[Source]) -> Generator[Prepared, None, None]:
    """Yield recordings from a store, with their one clip repeated for each of the bundles."""
    names = [source.filename for source in todo]
    return (replace(prepared, clips=members * prepared.clips) for prepared in clips.stream(names))
