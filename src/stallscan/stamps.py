"""Telling whether a file is still the one that something was made of."""

import os
from pathlib import Path
from typing import NamedTuple

from stallscan import files

# The hash of larger files would take seconds; where their times change they count as changed.
HASHED_BYTES = 64 * 2**20


class Stamp(NamedTuple):
    """What a file was like.

    The times alone say that it was touched, and the hash whether it was changed: a copy of a
    folder, or an archive unpacked again, has other times and the same content. The time of the
    last change of its entry (ctime) is one of them, because no program can set it: another file
    of the same size that was given the time of this one is found.

    Attributes
    ----------
    bytes : int
        Its size; 0 for what is no file by itself (a clip in a store).
    mtime_ns, ctime_ns : int
        When it was written, and when anything about it was changed last; 0 like the size.
    sha256 : str
        Hash of its content; empty where it is not known.
    """

    bytes: int
    mtime_ns: int
    ctime_ns: int
    sha256: str = ""

    @classmethod
    def of(cls, path: str | Path) -> "Stamp | None":
        """Look at a file without reading it; None where there is none."""
        try:
            found = os.stat(path)  # noqa: PTH116 (a million of them: half the time)
        except (OSError, ValueError):
            return None
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def sealed(self, path: str | Path) -> "Stamp":
        """Add the hash, unless the file is large or is not as it was any more."""
        if self.sha256 or self.bytes > HASHED_BYTES:
            return self
        try:
            sha256 = files.sha256(path)
        except OSError:
            return self
        # Looked at again after it was read: what was hashed is what the stamp is of.
        return self._replace(sha256=sha256) if Stamp.of(path) == self else self

    def is_of(self, path: str | Path, now: "Stamp") -> bool:
        """Tell whether a file that is like `now` has the content that it had."""
        if self.bytes != now.bytes:
            return False
        if self.sha256 and now.sha256:
            return self.sha256 == now.sha256
        if (self.mtime_ns, self.ctime_ns) == (now.mtime_ns, now.ctime_ns):
            return True
        return bool(self.sha256) and self.sha256 == now.sealed(path).sha256
