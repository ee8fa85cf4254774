"""The errors that stallscan raises on purpose, in one class hierarchy.

A message names the file, what is wrong, and what to do. Any other exception is a bug and shows its
traceback.
"""

from typing import ClassVar

from stallscan.words import printable, shortened

# Characters; of longer messages the middle is left out, because the end says what to do.
LONGEST_MESSAGE = 5000

# Optional libraries (import names), and the extra that installs each.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "pytorch_lightning": "train",
    "monai": "published",
    "nncf": "int8",
    "imagecodecs": "lab",
    "skimage": "lab",
    "bioio": "bioformats",
    "obstore": "cloud",
    "ray": "cluster",
}


def install(library: str) -> str:
    """Return the command that installs a library of `EXTRAS`, and where to run it.

    There is no package on PyPI, so the name of the project would not be found.
    """
    return f"pip install '.[{EXTRAS[library]}]' in the folder of stallscan's source"


def missing(error: ModuleNotFoundError) -> str | None:
    """Return a message with the install command if a library of `EXTRAS` is missing, else None."""
    library = (error.name or "").partition(".")[0]
    if library not in EXTRAS:
        return None
    return f"this needs {library}, which is not installed. Run: {install(library)}"


class StallscanError(Exception):
    """Base of every error that stallscan raises on purpose.

    Attributes
    ----------
    exit_code : int
        Exit code of a command that this error ends.
    """

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        # Messages quote files, which may contain any byte, and names of any length.
        return printable(shortened(super().__str__(), LONGEST_MESSAGE), keep="\n\t")


class InputError(StallscanError):
    """A file, folder or option that the user gave cannot be used."""


class SettingsError(InputError):
    """A setting in a recipe or on the command line is unknown or out of range."""


class TableError(InputError):
    """A table lacks columns or has invalid rows; the message names them."""


class BundleError(StallscanError):
    """A bundle is missing, incomplete, damaged or in an unknown format."""

    exit_code = 3


class StoreError(InputError):
    """A clip store is incomplete, damaged, or was prepared with other settings."""


class LostShardError(StoreError):
    """A shard of a clip store is missing or damaged; it can be created again."""


class WorkerError(StallscanError):
    """Worker processes cannot start, or lost an item that cannot be reported as a row."""


class EngineError(StallscanError):
    """An engine did not respond for minutes; its threads may hang in native code."""


class RecordingError(StallscanError):
    """One recording cannot be used. In a run over many recordings it becomes a row, not a failure.

    Attributes
    ----------
    status : str
        Value of the ``status`` column in ``predictions.csv``.
    """

    status: ClassVar[str] = "unreadable"


class UnreadableError(RecordingError):
    """The file is empty, is not a recording, or cannot be decoded."""


class TooShortError(RecordingError):
    """The recording has too few frames to detect motion."""

    status = "too_short"


class NoOutlineError(RecordingError):
    """No outline is drawn in the recording."""

    status = "no_outline"


class SeveralOutlinesError(RecordingError):
    """More than one segment is outlined in the recording."""

    status = "several_outlines"
