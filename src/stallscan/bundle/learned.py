"""What a bundle has learned from: short hashes of its recordings, without their names.

Calls on these recordings are better than on others, so no figure may be measured on them.
"""

from collections.abc import Iterable
from pathlib import Path

from stallscan import documents, files
from stallscan.errors import BundleError

LEARNED_NAME = "learned.json"
# Hexadecimal digits kept: with 600,000 recordings on both sides, two different ones are confused
# in 1 of 50 million cases.
DIGITS = 16


def shortened(hashes: Iterable[str]) -> frozenset[str]:
    """Return the beginnings of SHA-256 hashes; those that are empty (unknown) are left out."""
    return frozenset(sha256[:DIGITS] for sha256 in hashes if sha256)


def write(folder: Path, learned: Iterable[str]) -> None:
    """Write ``learned.json`` into the folder of a bundle; nothing if there is nothing to write."""
    if learned := sorted(learned):
        files.write_json(folder / LEARNED_NAME, {"format": 1, "recordings": learned})


def read(folder: Path) -> frozenset[str]:
    """Read ``learned.json``; empty without it, as in bundles of older versions.

    Raises
    ------
    BundleError
        If it cannot be read.
    """
    path = folder / LEARNED_NAME
    try:
        content = documents.read_json(path)
        if content["format"] != 1:
            raise BundleError(
                f"{path}: has format {content['format']!r}, but this version of stallscan reads "
                "format 1. Use the version that wrote it"
            )
        return frozenset(map(str, content["recordings"]))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not readable ({error}). Copy the bundle again") from None
