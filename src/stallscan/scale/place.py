"""Where a plan is: a folder that all machines see, or a prefix in a bucket (``s3://bucket/prefix``).

Files are written as a whole: under a temporary name in a folder, with one request in a bucket.
"""

import contextlib
import datetime
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from stallscan import files, runs
from stallscan.errors import InputError
from stallscan.recordings import bucket
from stallscan.words import printable

if TYPE_CHECKING:
    from obstore.store import S3Store

CLAIMS = "claims"
# A claim in a bucket is renewed this often, and void after this time: its process was killed.
RENEW_S, VOID_S = 60, 300
# How often to try to hold a folder that disappears.
TRIES = 10
# Requests at the same time, when many files are written or read.
AT_ONCE = 16
Result = TypeVar("Result")


class Place(Protocol):
    """The files of a plan. Names are relative, with ``/``."""

    where: str  # as the user names it

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file; nobody ever reads half of it."""

    def write_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write many files."""

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the contents of many files, in order."""

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder; none if it does not exist."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def claim(self, shard: str) -> contextlib.AbstractContextManager[object]:
        """Claim a shard for this process; raise `runs.HeldError` if another one has it."""

    def owners(self, shards: Iterable[str]) -> dict[str, str]:
        """Return who works on each of the shards that somebody works on."""


def open_place(where: str) -> Place:
    """Return the place that a user named.

    Raises
    ------
    InputError
        If the url is not that of a prefix in a bucket.
    ModuleNotFoundError
        If it is a url, and obstore is not installed.
    """
    if "://" in where:
        return BucketPlace(where)
    return FolderPlace(where)


class FolderPlace:
    """A folder."""

    def __init__(self, where: str | Path) -> None:
        self.where = str(where)
        self._folder = Path(where)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        path = self._folder / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {files.explain(error)}") from None

    def write(self, name: str, content: bytes) -> None:
        """Write a file; nobody ever reads half of it."""
        files.write_bytes(self._folder / name, content)

    def write_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write many files."""
        for name, content in contents:
            self.write(name, content)

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the contents of many files, in order."""
        return map(self.read, names)

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder; none if it does not exist."""
        path = self._folder / folder
        try:
            with os.scandir(path) as entries:
                return {entry.name for entry in entries if not entry.name.startswith(".")}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {files.explain(error)}") from None

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with files.writing(self._folder / name):
            (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def claim(self, shard: str) -> Iterator[None]:
        """Claim a shard for this process; the claim ends with the process, even if it is killed."""
        folder = self._folder / CLAIMS / shard
        with contextlib.ExitStack() as stack:
            _hold(folder, stack)
            # Before the claim ends: later, the folder may be that of another process.
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield

    def owners(self, shards: Iterable[str]) -> dict[str, str]:
        """Return who works on each of the shards that somebody works on."""
        claimed = self.names(CLAIMS)
        owners = {
            shard: runs.holder(self._folder / CLAIMS / shard)
            for shard in shards
            if shard in claimed
        }
        return {shard: owner for shard, owner in owners.items() if owner}


def _hold(folder: Path, stack: contextlib.ExitStack) -> None:
    """Hold the folder of a claim, which its last owner may be removing at this moment."""
    for _ in range(TRIES):
        try:
            stack.enter_context(runs.hold(folder))
        except InputError as error:
            if not isinstance(error.__cause__, FileNotFoundError | FileExistsError):
                raise
        else:
            return
    raise runs.HeldError(folder, "another process")


class BucketPlace:
    """A prefix in a bucket, with the credentials of the environment.

    A bucket has no locks. A claim is a note that its process renews, and that is void when it is
    old. Two processes may claim the same shard at the same moment; then both write the same result.
    """

    def __init__(self, where: str) -> None:
        if fault := bucket.url_fault(where):
            raise InputError(
                f"{where}: {fault}. Name a folder, or a prefix in a bucket: s3://bucket/prefix"
            )
        self.where = where.rstrip("/")
        name, self._prefix = bucket.split_url(self.where)
        self._store = _open(name)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if there is none."""
        import obstore

        def ask(key: str) -> bytes | None:
            with contextlib.suppress(FileNotFoundError):
                return bytes(obstore.get(self._store, key).bytes())
            return None

        return self._ask("read", name, ask)

    def write(self, name: str, content: bytes) -> None:
        """Write a file; nobody ever reads half of it."""
        import obstore

        self._ask("written", name, lambda key: obstore.put(self._store, key, content))

    def write_all(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Write many files."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda each: self.write(*each), contents):
                pass

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the contents of many files, in order."""
        names = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            # In batches, so that memory stays bounded.
            for start in range(0, len(names), AT_ONCE):
                yield from pool.map(self.read, names[start : start + AT_ONCE])

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder; none if it does not exist."""
        return set(self._listed(folder))

    def _listed(self, folder: str) -> dict[str, datetime.datetime]:
        """Return when each file of a folder was written, by its name."""
        import obstore

        def ask(key: str) -> dict[str, datetime.datetime]:
            batches = obstore.list(self._store, f"{key}/")
            every = (meta for batch in batches for meta in batch)
            return {meta["path"].removeprefix(f"{key}/"): meta["last_modified"] for meta in every}

        return self._ask("read", folder, ask)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        import obstore

        def ask(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, key)

        self._ask("removed", name, ask)

    @contextlib.contextmanager
    def claim(self, shard: str) -> Iterator[None]:
        """Keep a note that this process works on a shard."""
        name = f"{CLAIMS}/{shard}.json"
        if owner := self.owners([shard]).get(shard):
            raise runs.HeldError(f"{self.where}/{name}", owner)
        note = json.dumps(runs.describe_process()).encode()
        self.write(name, note)
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_S):
                with contextlib.suppress(InputError):
                    self.write(name, note)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(InputError):
                self.remove(name)

    def owners(self, shards: Iterable[str]) -> dict[str, str]:
        """Return who works on each of the shards that somebody works on."""
        oldest = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=VOID_S)
        claimed = {name for name, modified in self._listed(CLAIMS).items() if modified > oldest}
        wanted = [shard for shard in shards if f"{shard}.json" in claimed]
        notes = self.read_all(f"{CLAIMS}/{shard}.json" for shard in wanted)
        pairs = zip(wanted, notes, strict=True)
        return {shard: runs.say_process(note) for shard, note in pairs if note is not None}

    def _ask(self, what: str, name: str, request: Callable[[str], Result]) -> Result:
        from obstore.exceptions import BaseError

        try:
            return request(f"{self._prefix}/{name}")
        except (BaseError, OSError) as error:
            reason = printable(" ".join(str(error).partition("\n")[0].split()))
            raise InputError(
                f"{self.where}/{name}: cannot be {what} ({reason[:200]}). Check the name of the "
                "bucket, the network, and the credentials in AWS_ACCESS_KEY_ID or of the machine's "
                "role"
            ) from None


def _open(name: str) -> "S3Store":
    from obstore.store import S3Store

    # obstore reads the other variables of Amazon's tools, too: AWS_REGION, AWS_ENDPOINT_URL, ...
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    return S3Store(name, client_options={"allow_http": endpoint.startswith("http://")})
