"""What is reviewed: the recordings of a run of predictions, or of a folder."""

import math
from dataclasses import dataclass
from pathlib import Path

from stallscan.calls.predictions import read_predictions, read_run
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.report.cards import without_path
from stallscan.report.report import find_recordings
from stallscan.runs import PREDICTIONS_NAME


@dataclass(frozen=True)
class Item:
    """A recording to review.

    Attributes
    ----------
    filename : str
        As in the table of predictions.
    path : Path or None
        Where it is; None if it was not found.
    call, reason : str
        Of the prediction; empty if there is none.
    score, threshold : float or None
        Of the prediction, 0..1.
    bundle : str
        The bundle that made the prediction.
    """

    filename: str
    path: Path | None
    call: str = ""
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    bundle: str = ""


@dataclass(frozen=True)
class Run:
    """A folder that is reviewed, and its items in the order of the table or of the names."""

    folder: Path
    items: tuple[Item, ...]
    has_predictions: bool


def read(folder: Path) -> Run:
    """Read what is to be reviewed.

    Parameters
    ----------
    folder : Path
        Output folder of ``stallscan predict``, or a folder of recordings.

    Raises
    ------
    InputError
        If there are neither predictions nor recordings.
    TableError
        If the table of predictions is invalid.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Name the output of 'stallscan predict', or a folder of "
            "recordings"
        )
    path = folder / PREDICTIONS_NAME
    if not path.is_file():
        sources = find.list_recordings([folder])
        items = tuple(Item(source.filename, source.path) for source in sources)
        return Run(folder, items, has_predictions=False)
    table = read_predictions(path)
    path_of = find_recordings(table["filename"], read_run(path), None, path)
    items = tuple(
        Item(
            row["filename"],
            path_of.get(row["filename"]),
            row["call"],
            without_path(row["reason"], row["filename"]),
            _number(row["score"]),
            _number(row["threshold"]),
            row["bundle"],
        )
        for row in table.to_dict("records")
    )
    return Run(folder, items, has_predictions=True)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
