"""Fetching recordings from a bucket: many at once, resumable, every file checked.

A recording is downloaded into a hidden folder beside its place, checked, and renamed, so that a
file under its own name is always complete. Interrupted downloads resume within the file.
"""

import asyncio
import collections
import hashlib
import logging
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from stallscan import files
from stallscan.errors import InputError
from stallscan.recordings.bucket import (
    AgainError,
    Bucket,
    FetchSettings,
    FinalError,
    GoneError,
    NotPublicError,
    url_fault,
)
from stallscan.words import listed, printable

# Unfinished downloads. The dot hides the folder from `find.find_recordings`.
PARTS_NAME = ".parts"
# Bytes between two writes: a kill loses at most this much of a download.
CHUNK_BYTES = 256 * 2**10
# The mean size of this many recordings is known to 3 % (sizes vary by a quarter, docs/facts.md 5).
SAMPLE = 64
# Recordings downloaded, and not kept, to measure the rate.
PROBES = 8
# A failed recording is a row, but after this many in a row the network is down, and half a million
# rows would take days to fail.
FAILURES_IN_A_ROW = 64
# How often to ask whether to stop; and how long to keep the event loop for the threads of obstore,
# whose requests may end while they are being cancelled.
WATCH_S, GRACE_S = 0.2, 0.1

# The ETag of an object that was uploaded in one piece is the MD5 of its content.
_MD5 = re.compile(r"[0-9a-f]{32}")

Progress = Callable[[int, int], None]
log = logging.getLogger("stallscan")


class NetworkError(InputError):
    """Recordings exist, or may exist, but could not be fetched."""


class Wanted(NamedTuple):
    """A recording to fetch: its name in every table, and where it is (``s3://bucket/key``)."""

    filename: str
    url: str


class Outcome(NamedTuple):
    """What became of a recording."""

    filename: str
    status: str  # fetched or failed
    reason: str = ""  # why it failed
    bytes: int = 0
    # What its content was compared with: md5 (the store's checksum), or size if there is none.
    checked: str = ""
    # Whether it failed because there is no such object: gone, or not_public where the server does
    # not say. Empty for other failures, which may pass.
    missing: str = ""


class Survey(NamedTuple):
    """What is to be fetched."""

    recordings: int
    bytes: float  # of all, from the mean of those measured; NaN if none could be reached
    measured: int  # recordings whose size was asked for
    bytes_s: float = math.nan  # rate of downloads; NaN if not measured


def check(wanted: Sequence[Wanted]) -> None:
    """Refuse names that would leave the folder, and urls that are not in a bucket.

    Raises
    ------
    InputError
        The message names the first few rows.
    """
    wrong = [
        f"{printable(item.filename)!r} ({fault})"
        for item in wanted
        if (fault := _name_fault(item.filename) or url_fault(item.url))
    ]
    if wrong:
        raise InputError(
            f"{len(wrong):,} recordings cannot be fetched: {listed(wrong, separator='; ')}. "
            "Correct the columns filename and url"
        )


def _name_fault(name: str) -> str:
    """Say why a name is not a path inside a folder; empty if it is one, on any system."""
    if "\0" in name or printable(name) != name:
        return "the name has control characters"
    windows = PureWindowsPath(name)
    if "\\" in name or windows.drive or windows.root:
        return "the name is an absolute path or has a backslash or drive"
    # Hidden names are ours: locks and unfinished downloads.
    if any(not folder or folder.startswith(".") for folder in name.split("/")):
        return "the name has an empty, relative or hidden folder"
    return ""


def pending(
    wanted: Sequence[Wanted], folder: Path, sizes: Mapping[str, int] | None = None
) -> list[Wanted]:
    """Return the recordings that a folder does not have.

    Files that are empty, or whose size differs from the one in `sizes` (recorded when they were
    fetched), count as missing.
    """
    todo = []
    for item in wanted:
        try:
            size = (folder / item.filename).stat().st_size
        except OSError:
            size = 0
        if not size or (sizes or {}).get(item.filename, size) != size:
            todo.append(item)
    return todo


def survey(todo: Sequence[Wanted], settings: FetchSettings, measure_rate: bool = False) -> Survey:
    """Ask for the sizes of a sample, evenly spaced, and measure the download rate if wanted.

    Raises
    ------
    InputError
        If the server cannot be reached at all.
    """
    return asyncio.run(_survey(todo, settings, measure_rate))


async def _survey(todo: Sequence[Wanted], settings: FetchSettings, measure_rate: bool) -> Survey:
    count = min(SAMPLE, len(todo))
    sample = [todo[row * len(todo) // count] for row in range(count)]
    bucket = Bucket(settings.model_copy(update={"attempts": min(settings.attempts, 3)}))

    async def tried(request: Coroutine[Any, Any, int]) -> int | str:
        try:
            return await request
        except (AgainError, FinalError) as error:
            return str(error)

    sizes = await asyncio.gather(*(tried(bucket.size(item.url)) for item in sample))
    measured = [size for size in sizes if isinstance(size, int)]
    if sample and not bucket.answered:
        raise InputError(
            f"{sample[0].url}: the server cannot be reached ({sizes[0]}). Check the network"
            + (" and --endpoint" if settings.endpoint else "")
        )
    mean = sum(measured) / len(measured) if measured else math.nan
    rate = math.nan
    if measure_rate and measured:
        started = time.monotonic()
        downloads = (bucket.discard(item.url) for item in sample[:PROBES])
        loads = await asyncio.gather(*map(tried, downloads))
        received = sum(load for load in loads if isinstance(load, int))
        rate = received / (time.monotonic() - started) if received else math.nan
        rate = min(rate, _bytes_s(settings))
    return Survey(len(todo), len(todo) * mean if todo else 0.0, len(measured), rate)


def fetch(
    todo: Sequence[Wanted],
    folder: Path,
    settings: FetchSettings,
    progress: Progress = lambda _done, _of: None,
    stop: threading.Event | None = None,
) -> list[Outcome]:
    """Fetch recordings into a folder.

    Parameters
    ----------
    todo : sequence of Wanted
        From `pending`, and accepted by `check`: existing files are replaced.
    folder : Path
        Created if missing. Only one process may fetch into it (`runs.hold`).
    settings : FetchSettings
        How to reach the bucket.
    progress : callable
        Called with the number of recordings done and their total.
    stop : Event, optional
        If another thread sets it, the downloads are interrupted.

    Returns
    -------
    list of Outcome
        One per recording, in the given order.

    Raises
    ------
    InputError
        If the folder cannot be written, or `FAILURES_IN_A_ROW` recordings fail one after the other
        (`NetworkError`). Those fetched until then are kept.
    asyncio.CancelledError
        If `stop` was set.
    """
    fetcher = _Fetcher(files.make_folder(folder), settings)
    done = asyncio.run(fetcher.run(todo, progress, stop))
    return [done[item.filename] for item in todo]


class _Fetcher:
    """Downloads into one folder."""

    def __init__(self, folder: Path, settings: FetchSettings) -> None:
        self._folder, self._settings = folder, settings
        self._bucket = Bucket(settings)
        self._limiter = _Limiter(_bytes_s(settings))
        self._parts_folder = files.make_folder(folder / PARTS_NAME)
        # Unfinished downloads, by the first half of their names. Without the second half, nothing
        # shows whether the object is still the same.
        halves = ((path.name.partition("-"), path) for path in self._parts_folder.iterdir())
        self._parts = {key: path for (key, _, tag), path in halves if tag}
        self._faults = collections.Counter[str]()
        self._failed_in_a_row = 0

    def _say_faults(self) -> None:
        if self._faults:
            named = [f"{count:,} x {fault}" for fault, count in self._faults.most_common()]
            log.info("%s attempts failed: %s", f"{self._faults.total():,}", listed(named))

    async def run(
        self, todo: Sequence[Wanted], progress: Progress, stop: threading.Event | None
    ) -> dict[str, Outcome]:
        """Fetch all; return the outcomes by filename."""
        done: dict[str, Outcome] = {}
        queue = iter(todo)  # shared by the workers
        progress(0, len(todo))

        async def work() -> None:
            for item in queue:
                done[item.filename] = await self._one(item)
                progress(len(done), len(todo))

        connections = min(self._settings.at_once, len(todo))
        workers = asyncio.gather(*(work() for _ in range(connections)))
        watcher = asyncio.create_task(_cancel_at(stop, workers)) if stop else None
        try:
            await workers
        except BaseException:
            workers.cancel()
            await asyncio.sleep(GRACE_S)
            raise
        finally:
            self._say_faults()
            if watcher:
                watcher.cancel()
        # What is left is of recordings that cannot be had, or that nobody wants any more.
        shutil.rmtree(self._parts_folder, ignore_errors=True)
        return done

    async def _one(self, item: Wanted) -> Outcome:
        def failed(reason: str) -> None:
            self._faults[reason] += 1

        try:
            outcome: Outcome = await self._bucket.repeat(lambda: self._attempt(item), failed)
        except AgainError as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILURES_IN_A_ROW:
                raise NetworkError(
                    f"{item.url}: cannot be fetched ({error}), like the {FAILURES_IN_A_ROW - 1} "
                    "before it. Check the network, and run the same command again to resume"
                ) from None
            return Outcome(item.filename, "failed", f"{error}, in each of several attempts")
        except FinalError as error:
            self._failed_in_a_row = 0  # the server answers
            missing = "gone" if isinstance(error, GoneError) else ""
            missing = "not_public" if isinstance(error, NotPublicError) else missing
            return Outcome(item.filename, "failed", str(error), missing=missing)
        self._failed_in_a_row = 0
        return outcome

    async def _attempt(self, item: Wanted) -> Outcome:
        import obstore

        key = _hash(item.filename)
        part = self._parts.pop(key, None)
        size = part.stat().st_size if part else 0
        options = {"range": {"offset": size}} if size else None
        try:
            result = await self._bucket.ask(obstore.get_async, item.url, options=options)
        except AgainError as error:
            if part and "(HTTP 5" in str(error):
                self._parts[key] = part
            raise  # otherwise the part may be the reason: it is complete, or too long
        meta = result.meta
        if not meta["size"]:
            raise GoneError("empty in the bucket")
        tag = _hash(meta["e_tag"]) if meta["e_tag"] else ""
        path = self._parts_folder / f"{key}-{tag}"
        if part and part != path:
            part.unlink()
            raise AgainError("replaced in the bucket since its download began")
        if tag:
            self._parts[key] = path
        with files.writing(path):
            digest = await self._download(item, result, path)
        self._parts.pop(key, None)
        checked = await self._check(item, path, meta, digest)
        target = self._folder / item.filename
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise FinalError(f"cannot be written: {files.explain(error)}") from None
        return Outcome(item.filename, "fetched", "", meta["size"], checked)

    async def _download(self, item: Wanted, result: Any, path: Path) -> str:
        """Append the content of a response to a file; return the MD5 of all of it."""
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("a+b") as file:
            file.truncate(result.range[0])
            file.seek(0)
            digest.update(file.read())
            chunks = aiter(result.stream(min_chunk_size=CHUNK_BYTES))
            while chunk := await self._bucket.ask(lambda *_: anext(chunks, b""), item.url):
                await self._limiter.pass_through(len(chunk))
                file.write(chunk)
                digest.update(chunk)
        return digest.hexdigest()

    async def _check(self, item: Wanted, path: Path, meta: Any, digest: str) -> str:
        """Compare a download with the store's checksum, or with its size; remove it if wrong."""
        import obstore

        tag = (meta["e_tag"] or "").strip('"')
        if _MD5.fullmatch(tag):
            checked, is_right = "md5", tag == digest
        else:
            # A response that was cut short upstream may state its own length; ask once more.
            again = await self._bucket.ask(obstore.head_async, item.url)
            now = (again["size"], again["e_tag"])
            checked, is_right = "size", now == (path.stat().st_size, meta["e_tag"])
        if not is_right:
            path.unlink()
            raise AgainError(f"wrong content, by its {checked}")
        return checked


def _hash(text: str) -> str:
    return files.sha256_of(text.encode())[:32]


def _bytes_s(settings: FetchSettings) -> float:
    return settings.limit_mbit * 1e6 / 8 or math.inf


async def _cancel_at(stop: threading.Event, task: "asyncio.Future[Any]") -> None:
    while not stop.is_set():
        await asyncio.sleep(WATCH_S)
    task.cancel()


class _Limiter:
    """Spreads bytes over time."""

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._free_at = 0.0  # when the line has carried all bytes so far

    async def pass_through(self, count: int) -> None:
        """Wait until the line has carried `count` more bytes."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + count / self._bytes_s
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
