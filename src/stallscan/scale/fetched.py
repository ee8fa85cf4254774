"""Recordings of a shard, fetched from a bucket into a temporary folder and deleted with it."""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stallscan import files, runs
from stallscan.errors import InputError
from stallscan.recordings import fetch
from stallscan.recordings.bucket import FetchSettings
from stallscan.recordings.fetch import NetworkError, Outcome, Wanted
from stallscan.scale.plan import Item
from stallscan.stamps import Stamp
from stallscan.words import listed

PREFIX = "stallscan-shard-"
# A folder that nobody holds is left by a killed process, unless it was created just now.
LEFTOVER_S = 60


@dataclass(frozen=True)
class Fetched:
    """The recordings of a shard on this machine."""

    folder: Path
    missing: dict[str, str]  # reasons of those that do not exist, by filename
    stamps: dict[str, Stamp]  # of the others: size and hash, because times are of no meaning
    seconds: float


def get(
    items: Sequence[Item], folder: Path, settings: FetchSettings, stop: threading.Event
) -> Fetched:
    """Fetch the recordings of a shard.

    Raises
    ------
    NetworkError
        If any of them could not be fetched although it may exist.
    InputError
        If the folder cannot be written.
    """
    started = time.monotonic()
    wanted = [Wanted(*item) for item in items]
    outcomes = fetch.fetch(wanted, folder, settings, stop=stop)
    _refuse_failures(wanted, outcomes)
    seconds = time.monotonic() - started
    stamps = {
        outcome.filename: Stamp(outcome.bytes, 0, 0, files.sha256(folder / outcome.filename))
        for outcome in outcomes
        if not outcome.missing
    }
    missing = {outcome.filename: outcome.reason for outcome in outcomes if outcome.missing}
    return Fetched(folder, missing, stamps, seconds)


def _refuse_failures(wanted: Sequence[Wanted], outcomes: Sequence[Outcome]) -> None:
    failed = [
        f"{item.url} ({outcome.reason})"
        for item, outcome in zip(wanted, outcomes, strict=True)
        if outcome.status == "failed" and not outcome.missing
    ]
    if failed:
        raise NetworkError(
            f"{len(failed):,} of {len(wanted):,} recordings could not be fetched: "
            f"{listed(failed, 2, separator='; ')}. Check the network and the free disk space, and "
            "run the same command again"
        )
    # A server that does not say what exists answers the same to somebody who may read nothing.
    if all(outcome.missing == "not_public" for outcome in outcomes):
        raise NetworkError(
            f"{wanted[0].url}: {outcomes[0].reason}, like all {len(wanted):,} recordings of this "
            "shard. Check the urls, and that their bucket is public"
        )


class Scratch:
    """Temporary folders for shards, and the one thread that fetches into them."""

    def __init__(self, parent: Path | None, settings: FetchSettings) -> None:
        self._parent = Path(tempfile.gettempdir()) if parent is None else files.make_folder(parent)
        self._settings = settings
        self._thread = ThreadPoolExecutor(1)
        _sweep(self._parent)

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def fetching(self, items: Callable[[], Sequence[Item]]) -> Iterator["Future[Fetched]"]:
        """Begin to fetch a shard; its folder is deleted at the end of the context."""
        stop = threading.Event()
        with files.writing(self._parent):
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(runs.hold(folder))
            future = self._thread.submit(
                lambda: get(items(), folder / "recordings", self._settings, stop)
            )
            # An abandoned download must end before its folder is deleted.
            stack.callback(_abandon, future, stop)
            yield future


def _abandon(future: "Future[Fetched]", stop: threading.Event) -> None:
    """Stop a download if it is running, and wait until it has ended."""
    if not future.cancel() and not future.done():
        stop.set()
        with contextlib.suppress(BaseException):
            future.result()


def _sweep(parent: Path) -> None:
    """Remove folders of killed processes."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, InputError):
            if time.time() - folder.stat().st_mtime > LEFTOVER_S:
                with runs.hold(folder):
                    shutil.rmtree(folder)
