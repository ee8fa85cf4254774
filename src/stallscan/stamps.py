"""Detection of changed files by size, times and hash."""

import os
from pathlib import Path
from typing import NamedTuple

from stallscan import files

# Hashing larger files would take seconds; they count as changed if their times differ.
HASHED_BYTES = 64 * 2**20


class Stamp(NamedTuple):
    """The size, times and hash of a file at one moment.

    Different times do not prove a change: a copied folder or an unpacked archive has new times and
    the same content. Only then is the hash compared. ctime is included because programs cannot set
    it: a file of the same size with a forged mtime is still detected.

    Attributes
    ----------
    bytes : int
        Size; 0 for what is not a file of its own (a clip in a store).
    mtime_ns, ctime_ns : int
        Times of the last change of content and of metadata; 0 like the size.
    sha256 : str
        Hash of the content; empty if unknown.
    """

    bytes: int
    mtime_ns: int
    ctime_ns: int
    sha256: str = ""

    @classmethod
    def of(cls, path: str | Path) -> "Stamp | None":
        """Return the size and times of a file, or None if it does not exist."""
        try:
            status = os.stat(path)  # noqa: PTH116 (twice as fast; called a million times)
        except (OSError, ValueError):
            return None
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def sealed(self, path: str | Path) -> "Stamp":
        """Add the hash, unless the file is large or has changed."""
        # Reading a device or a pipe may never end.
        if self.sha256 or self.bytes > HASHED_BYTES or not Path(path).is_file():
            return self
        try:
            sha256 = files.sha256(path)
        except OSError:
            return self
        # The file must be unchanged after hashing, or the hash may be of other content.
        return self._replace(sha256=sha256) if Stamp.of(path) == self else self

    def is_replaced(self, path: str | Path) -> bool:
        """Return whether the file at `path` is certainly another one, wherever it was moved to."""
        now = Stamp.of(path)
        if now is None or self.bytes != now.bytes:
            return now is not None
        return bool(self.sha256) and not self.is_of(path, now)

    def is_of(self, path: str | Path, now: "Stamp") -> bool:
        """Return whether the file at `path`, whose stamp is `now`, still has the same content."""
        if self.bytes != now.bytes:
            return False
        if self.sha256 and now.sha256:
            return self.sha256 == now.sha256
        if (self.mtime_ns, self.ctime_ns) == (now.mtime_ns, now.ctime_ns):
            return True
        return bool(self.sha256) and self.sha256 == now.sealed(path).sha256
