"""What a path holds that a command does not take, and which command takes it.

By names alone: nothing is opened, because the file may be damaged or of any size.
"""

from pathlib import Path
from typing import Literal

from stallscan.recordings import bioformats
from stallscan.runs import CLIPS_NAME, PREDICTIONS_NAME, SERIES_NAME, STACK_NAME

Kind = Literal["stack run", "series run", "run", "folder", "video", "image", "table", ""]

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".gif"})
STACK_SUFFIXES = frozenset({".tif", ".tiff"})
_TABLES = frozenset({".csv", ".tsv", ".txt"})
_WHAT: dict[Kind, tuple[str, str]] = {
    "stack run": (
        "the output of 'stallscan stack'",
        f"Give the clips in it ({{path}}/{CLIPS_NAME})",
    ),
    "series run": (
        "the output of 'stallscan stack' for a time series at one depth",
        "No other command takes it, because no model calls a time series. Its figures are in "
        "rates.csv and series.csv",
    ),
    "run": (
        "the output of 'stallscan predict'",
        "'stallscan report', 'stallscan review' and 'stallscan evaluate' take it",
    ),
    "folder": ("a folder", "'stallscan predict' calls the outlined recordings in a folder"),
    "video": ("a video", "'stallscan predict' calls outlined recordings"),
    "image": (
        "an image or stack",
        "'stallscan stack' calls the vessels of a raw stack, and 'stallscan predict' outlined "
        "recordings",
    ),
    "table": (
        "a table",
        f"'stallscan report' and 'stallscan evaluate' take the {PREDICTIONS_NAME} of 'stallscan "
        "predict'",
    ),
    "": ("of an unknown kind", "Check its name"),
}


def kind_of(path: Path) -> Kind:
    """Return what a path seems to be; empty if its name does not say."""
    suffix = path.suffix.lower()
    if suffix in STACK_SUFFIXES or bioformats.reads(path):
        return "image"
    if path.is_dir():
        if not (path / PREDICTIONS_NAME).is_file():
            return "series run" if (path / SERIES_NAME).is_file() else "folder"
        return "stack run" if (path / STACK_NAME).is_file() else "run"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "table" if suffix in _TABLES else ""


def refusal(path: Path, expected: str) -> str:
    """Say in a sentence what a path is instead of `expected`, and which command takes it."""
    what, remedy = _WHAT[kind_of(path)]
    return f"{path}: is {what}, not {expected}. {remedy.format(path=path)}"
