"""What a command is given to look at: recordings, or a store of their clips."""

import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stallscan import workers
from stallscan.bundle import disk
from stallscan.bundle.bundle import Bundle
from stallscan.clips import prepare, store
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.store import Store
from stallscan.errors import InputError
from stallscan.recordings.find import Source, find_recordings
from stallscan.stamps import Stamp

# Fewer recordings are decoded in this process: they are done before a second one has started.
FEW = 3


@dataclass(frozen=True)
class Inputs:
    """Recordings, and the way to their clips.

    Attributes
    ----------
    sources : sequence of Source
        In order.
    stamps : sequence of Stamp or None
        What each was like when it was found: a file, or what a store holds of it.
    stream : callable
        Given some of the sources in this order, yields what becomes of them.
    from_store : bool
        Whether their clips come from a store.
    passed_over : dict
        Files and folders that are not read, as `find.PassedOver.as_dict` returns them.
    """

    sources: Sequence[Source]
    stamps: Sequence[Stamp | None]
    stream: Callable[[Sequence[Source]], Generator[Prepared, None, None]]
    from_store: bool = False
    passed_over: dict[str, Any] = field(default_factory=dict)


def find(
    paths: Sequence[str | Path], members: Sequence[Bundle], processes: int | None = None
) -> Inputs:
    """Find recordings and how each of some bundles is shown them.

    Parameters
    ----------
    paths : sequence of str or Path
        Files and folders, as `find.list_recordings` takes them, or one store.
    members : sequence of Bundle
        A clip is made for each.
    processes : int, optional
        That decode, as in `prepare.many`; by default none for one or two recordings.

    Raises
    ------
    InputError
        If there are no recordings, a store and something else, or a number of processes that makes
        no sense.
    StoreError
        If the store is damaged, or its clips are not those of every bundle.
    """
    workers.count(processes)
    made = store.open_if_store(paths)
    if made is None:
        sources, passed_over = find_recordings(paths)
        views = [member.spec.view for member in members]
        # By all of them, not by those that are left: of those one may have crashed a decoder.
        if processes is None and len(sources) < FEW:
            processes = 0
        stamps = [Stamp.of(source.path) for source in sources]
        return Inputs(
            sources,
            stamps,
            lambda todo: prepare.many(todo, views, processes),
            passed_over=passed_over.as_dict(),
        )
    for member in members:
        made.require(member.spec.view, f"the bundle {member.label}", f"--bundle {member.path}")
    made.warn_of_replaced()
    rows = [(row.source, row.as_stamp()) for row in made.rows()]
    return Inputs(
        [source for source, _ in rows],
        [stamp for _, stamp in rows],
        functools.partial(_stream, made, len(members)),
        from_store=True,
    )


def view_of(which: str | Path) -> Preprocessing:
    """Say how a bundle is shown recordings, or all members of an ensemble alike.

    Parameters
    ----------
    which : str or Path
        Name of a shipped bundle, or the folder of a bundle or ensemble.

    Raises
    ------
    BundleError
        If it cannot be used.
    InputError
        If members see recordings differently.
    """
    members = disk.load_any(which).members
    seeing: dict[Preprocessing, list[str]] = {}
    for member in members:
        seeing.setdefault(member.spec.view, []).append(str(member.path))
    if len(seeing) > 1:
        raise InputError(
            f"{which}: the members of this ensemble see recordings differently, and a store has "
            f"clips of one kind; make one for each: --bundle "
            f"{', or --bundle '.join(paths[0] for paths in seeing.values())}"
        )
    return members[0].spec.view


def _stream(made: Store, views: int, todo: Sequence[Source]) -> Generator[Prepared, None, None]:
    """Give what a store holds of recordings, with the clip once for each of so many views."""
    names = [source.filename for source in todo]
    return (replace(prepared, clips=views * prepared.clips) for prepared in made.stream(names))
