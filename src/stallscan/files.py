"""Writing files so that a reader never sees half of one, and telling files apart by content."""

import contextlib
import errno
import functools
import gzip
import hashlib
import json
import multiprocessing
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import stallscan
from stallscan.errors import InputError

# Longer suffixes are not those of a format, and leave no room for a temporary name.
LONGEST_SUFFIX = 16
# A file that is being written is touched more often than this; an older one was left by a kill.
LEFTOVER_S = 3600
# Of an existing file, to tell who wrote it.
MARK_BYTES = 2**16

_PARTIAL = re.compile(r"\.[0-9a-f]{8}-\d+\.partial(\..*)?")
_FULL = "Make room, and run the same command again"
_ELSEWHERE = "Change its permissions, or choose another place with -o"
# What is wrong and what to do, by the number that the system gives an error.
_ADVICE = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file is larger than this disk allows", "Choose another place with -o"),
    errno.ENAMETOOLONG: ("the name is too long", "Choose a shorter one (output: -o)"),
    errno.EISDIR: ("this is a folder", "Name a file (output: -o)"),
    errno.ENOTDIR: ("a part of this path is a file", "Name another path (output: -o)"),
    errno.EEXIST: ("this is a file, expected a folder", "Choose another with -o"),
    errno.EROFS: ("the disk is read-only", "Choose another place with -o"),
    errno.ENOENT: ("no such file or folder", "Check that it exists"),
    errno.EACCES: ("permission denied", _ELSEWHERE),
    errno.EPERM: ("not permitted", _ELSEWHERE),
    errno.EMFILE: (
        "too many open files",
        "Allow more of them (ulimit -n), or use fewer --processes",
    ),
}
_ADVICE_ELSE = "Check that the file and its folder can be read and written (output: -o)"


def explain(error: OSError) -> str:
    """Say in one sentence what an error of the system means, and in another what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    return ". ".join(_ADVICE.get(error.errno or 0, (reason, _ADVICE_ELSE)))


def unwritable(path: str | Path, error: OSError) -> InputError:
    """Say why a file or folder cannot be written, and what to do."""
    return InputError(f"{path}: cannot be written: {explain(error)}")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn the OSError of what is done inside into an InputError that names `path`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(path: str | Path) -> Path:
    """Create an output folder (and its parents) and prove that it can be written.

    Raises
    ------
    InputError
        If something other than a folder stands there, nothing can be written into it, or this
        process was started by a script and runs that script again.
    """
    path = Path(path)
    # A script without a guard that starts processes is run again by each of them.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            f"{path}: a process that is still starting runs this script again. Put what the script "
            'does below the line: if __name__ == "__main__":'
        )
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there replaces `path` at the end.

    The temporary name is of this call only, and keeps the suffix, because encoders choose the
    format by it. On an error nothing is left behind and an older file at `path` stays as it was.
    What a killed process left behind is removed an hour later, by whoever writes into the folder.

    Raises
    ------
    InputError
        If the file or its folder cannot be written, also for what is done inside: a full disk.
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
    """Refuse an output file in whose place something else stands: a folder, a device.

    Raises
    ------
    InputError
        If there is one, or the name is no name of a file.
    """
    path = Path(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # To replace a device (/dev/null) would take it from everybody.
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file. Choose another with -o")


def refuse_foreign(path: str | Path, marks: Sequence[str | bytes], what: str) -> None:
    """Refuse to replace a file that another command or a person wrote.

    Parameters
    ----------
    path : str or Path
        The file to be written, gzipped if its name ends in ``.gz``.
    marks : sequence of str or bytes
        One of them is among the first `MARK_BYTES` of each file that may be replaced.
    what : str
        What may be replaced, in the words of a message: ``a report``.

    Raises
    ------
    InputError
        If another file stands there, or something else than a file.
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
        raise InputError(
            f"{path}: exists and is not {what}, so it is not replaced. Choose another place with -o"
        )


def write_text(path: str | Path, text: str) -> None:
    r"""Write `text` as UTF-8 in one atomic step.

    A byte of a file name that is not UTF-8 is written as ``\udcfc``: JSON gives it back.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` in one atomic step."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON in one atomic step; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    """Hash of a file's content, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: bytes | memoryview) -> str:
    """Hash of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def provenance() -> dict[str, Any]:
    """Say what is running: stallscan's version and, in a checkout, its git commit.

    Returns
    -------
    dict
        ``stallscan`` (version) and ``git`` (commit, as `git_commit` returns it).
    """
    return {"stallscan": stallscan.__version__, "git": git_commit()}


def git_commit(limit_s: float = 10) -> str | None:
    """Return the commit of stallscan's own checkout, with ``+dirty`` where files differ from it.

    None outside a checkout, without git, and where git takes longer than `limit_s`.
    """
    # Only our own checkout counts: an installed package may lie inside a user's unrelated one.
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
    """Remove what killed processes left in a folder, once in the life of this one."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _PARTIAL.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > LEFTOVER_S:
                        os.unlink(entry.path)  # noqa: PTH108
