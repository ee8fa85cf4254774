"""Atomic writes, messages for file errors, content hashes and provenance."""

import contextlib
import csv
import errno
import functools
import gzip
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import secrets
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import stallscan
from stallscan.errors import InputError

# A longer suffix names no file format, and the temporary name would get too long.
LONGEST_SUFFIX = 16
# Temporary files older than this are leftovers of a killed process; running writers are faster.
LEFTOVER_S = 3600
# Read from an existing file to identify its writer.
MARK_BYTES = 2**16
# Bytes at the start and at the end of a file that distinguish it from another of the same name.
GLANCE_BYTES = 2**16

_PARTIAL = re.compile(r"\.[0-9a-f]{8}-\d+\.partial(\..*)?")
_FULL = "Free some space, and run the same command again"
_ELSEWHERE = "Change its permissions, or choose another output with -o"
# What is wrong and what to do, by errno.
_ADVICE = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file is too large for this disk", "Choose another output with -o"),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter name (output: -o)"),
    errno.EISDIR: ("this is a folder", "Name a file (output: -o)"),
    errno.ENOTDIR: ("one of the folders in this path is a file", "Name another path (output: -o)"),
    errno.EEXIST: ("this is a file, not a folder", "Choose another output with -o"),
    errno.EROFS: ("the disk is read-only", "Choose another output with -o"),
    errno.ENOENT: ("no such file or folder", "Check that it exists"),
    errno.EACCES: ("permission denied", _ELSEWHERE),
    errno.EPERM: ("not permitted", _ELSEWHERE),
    errno.EMFILE: (
        "too many open files",
        "Raise the limit (ulimit -n), or use fewer --processes",
    ),
}
_ADVICE_ELSE = "Check that the file and its folder can be read and written (output: -o)"


def explain(error: OSError) -> str:
    """Return a message for a system error: what is wrong, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return ". ".join(_ADVICE.get(error.errno or 0, (reason, _ADVICE_ELSE)))


def unwritable(path: str | Path, error: OSError) -> InputError:
    """Return an error that says why a file or folder cannot be written, and what to do."""
    return InputError(f"{path}: cannot be written: {explain(error)}")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an OSError in the block into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(path: str | Path) -> Path:
    """Create an output folder (and its parents) and check that it is writable.

    Raises
    ------
    InputError
        If the path is not a folder or not writable, or this is a worker process that runs the
        user's script again.
    """
    path = Path(path)
    # Spawned processes run a script without a __main__ guard again.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            f"{path}: a worker process is running this script again. Put the script's code under "
            'if __name__ == "__main__":'
        )
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` at the end.

    The temporary name is unique to this call and keeps the suffix, because encoders choose the
    format by it. After an error, the temporary file is removed and an existing `path` is unchanged.
    The next writer to the folder removes leftovers of killed processes after `LEFTOVER_S`.

    Raises
    ------
    InputError
        If the file or its folder cannot be written, including errors in the block: a full disk.
    """
    path = Path(path)
    folder = make_folder(path.parent)
    _sweep(str(folder.absolute()))
    suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
    temporary = folder / f".{secrets.token_hex(4)}-{os.getpid()}.partial{suffix}"
    with writing(path):
        refuse_no_file(path)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def refuse_no_file(path: str | Path) -> None:
    """Raise an InputError if an output path exists but is not a regular file, or is invalid."""
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Replacing a device such as /dev/null would break it for all programs.
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file. Choose another output with -o")


def refuse_foreign(path: str | Path, marks: Sequence[str | bytes], what: str) -> None:
    """Refuse to replace a file that another command or a person wrote.

    Parameters
    ----------
    path : str or Path
        The file to be written, gzipped if its name ends in ``.gz``.
    marks : sequence of str or bytes
        A file may be replaced if its first `MARK_BYTES` contain one of these.
    what : str
        Description of such files for the message: ``a report``.

    Raises
    ------
    InputError
        If `path` is another file, or not a regular file.
    """
    path = Path(path)
    refuse_no_file(path)
    with writing(path):
        if not path.exists() or not path.stat().st_size:
            return
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                head = file.read(MARK_BYTES)
        except (EOFError, gzip.BadGzipFile):
            head = b""
    if not any((mark.encode() if isinstance(mark, str) else mark) in head for mark in marks):
        raise InputError(f"{path}: already exists and is not {what}. Choose another output with -o")


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV in UTF-8, atomically, one line at a time."""
    write_text(path, map(csv_line, itertools.chain([columns], rows)))


def csv_line(values: Iterable[Any]) -> str:
    """Return one line of CSV, with its end; None is an empty cell."""
    buffer = io.StringIO()
    cells = ["" if value is None else str(value) for value in values]
    writer = csv.writer(buffer, lineterminator="\n")
    if any("\r" in cell for cell in cells):
        # A lone carriage return also ends a row, but is not quoted by default.
        writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(cells)
    return buffer.getvalue()


def write_text(path: str | Path, text: str | Iterable[str]) -> None:
    r"""Write `text`, or the pieces of a long one, as UTF-8, atomically.

    A byte of a file name that is not UTF-8 is written as ``\udcfc``, which JSON decodes again.
    """
    pieces = [text] if isinstance(text, str) else text
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(pieces)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON, atomically; raise ValueError for NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def glance(path: Path) -> tuple[int, bytes, bytes]:
    """Return the size, start and end of a file, because reading all of it would take too long."""
    with path.open("rb") as file:
        head = file.read(GLANCE_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - GLANCE_BYTES, 0))
        return size, head, file.read()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a regular file's content as 64 hexadecimal digits."""
    # Opening a pipe would block until somebody writes to it.
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def provenance() -> dict[str, Any]:
    """Return the version of stallscan and its commit: keys ``stallscan`` and ``git``."""
    return {"stallscan": stallscan.__version__, "git": git_commit()}


def git_commit(limit_s: float = 10) -> str | None:
    """Return the commit of stallscan's checkout, with ``+dirty`` if files differ from it.

    Return None outside a checkout, without git, or if git takes longer than `limit_s`.
    """
    # Only our own checkout: an installed package may lie inside an unrelated repository.
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


@functools.cache
def _sweep(folder: str) -> None:
    """Remove temporary files of killed processes from a folder, once per process."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _PARTIAL.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > LEFTOVER_S:
                        os.unlink(entry.path)  # noqa: PTH108
