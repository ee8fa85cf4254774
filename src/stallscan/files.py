"""Writing files so that a reader never sees half of one, and telling files apart by content."""

import contextlib
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import stallscan
from stallscan.errors import InputError


def make_folder(path: str | Path) -> Path:
    """Create an output folder (and its parents) and prove that it can be written.

    Raises
    ------
    InputError
        If something other than a folder stands there, or nothing can be written into it.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: cannot write into this output folder ({error.strerror}); "
            "choose another with -o or mend its permissions"
        ) from error
    return path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there replaces `path` at the end.

    The temporary name keeps the suffix, because encoders choose the format by it. On an error
    nothing is left behind and an older file at `path` stays as it was; what a killed process left
    behind is overwritten by the next one that writes to `path`.

    Raises
    ------
    InputError
        If the parent folder cannot be made or written.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        ``stallscan`` (version) and ``git`` (commit, with ``+`` where files differ from it; None
        outside a checkout).
    """
    return {"stallscan": stallscan.__version__, "git": _git_commit()}


def _git_commit() -> str | None:
    # Only our own checkout counts: an installed package may lie inside a user's unrelated one.
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
