"""The errors that stallscan raises on purpose: one tree, one sentence each.

A message names the file, what is wrong, what was expected, and what to do. Anything that is not a
`StallscanError` is a bug of ours and shows its traceback.
"""

from typing import ClassVar

from stallscan.words import printable

# The extra that brings each library that not everybody needs.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "pytorch_lightning": "train",
    "monai": "published",
    "nncf": "int8",
    "imagecodecs": "lab",
    "skimage": "lab",
}


def install(library: str) -> str:
    """Return the command that installs a library of `EXTRAS`."""
    return f"pip install 'stallscan[{EXTRAS[library]}]'"


def missing(error: ModuleNotFoundError) -> str | None:
    """Say what is not installed and how to get it, if it is a library of `EXTRAS`."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        return None
    return f"this needs {library}, which is not installed; run: {install(library)}"


class StallscanError(Exception):
    """Base of every error that stallscan raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line exits with when this error ends a command.
    """

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        # Messages name files, and any byte may be in a file's name.
        return printable(super().__str__(), keep="\n\t")


class InputError(StallscanError):
    """A file, folder or option that the user gave cannot be used."""


class SettingsError(InputError):
    """A setting is unknown or out of range, in a recipe or on the command line."""


class TableError(InputError):
    """A table lacks a column or has wrong rows; the message names them."""


class BundleError(StallscanError):
    """A bundle is missing, incomplete, of an unknown format, or damaged."""

    exit_code = 3


class StoreError(InputError):
    """A clip store is incomplete, damaged, or was made with other settings."""


class LostShardError(StoreError):
    """A shard of a clip store is missing, or not as it was written: it can be made anew."""


class WorkerError(StallscanError):
    """Worker processes cannot be started, or lost something that no row can stand for."""


class EngineError(StallscanError):
    """An engine gave no result for minutes; its threads may hang in native code from now on."""


class RecordingError(StallscanError):
    """One recording cannot be used; over a corpus it becomes a row, never the end of the run.

    Attributes
    ----------
    status : str
        What stands in the ``status`` column of ``predictions.csv``.
    """

    status: ClassVar[str] = "unreadable"


class UnreadableError(RecordingError):
    """The file is empty, is not a recording, or nothing in it can be decoded."""


class TooShortError(RecordingError):
    """The recording has too few frames to tell whether anything moves."""

    status = "too_short"


class NoOutlineError(RecordingError):
    """No outline is drawn in the recording."""

    status = "no_outline"


class SeveralOutlinesError(RecordingError):
    """More than one segment is outlined in the recording."""

    status = "several_outlines"
