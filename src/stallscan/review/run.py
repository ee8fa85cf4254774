"""What is reviewed: the recordings of a run of predictions, or of a folder."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stallscan.calls.predictions import read_predictions, read_run
from stallscan.errors import InputError
from stallscan.recordings import find
from stallscan.report.sources import find_sources, read_stamps
from stallscan.report.stored import NOT_FOUND, Shown
from stallscan.runs import PREDICTIONS_NAME, RUN_NAME
from stallscan.stamps import Stamp
from stallscan.words import listed, without_path


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
    found : Path, Predicted, Stored or None
        What is shown of it: the recording, otherwise its clip; None if neither was found.
    stamp : Stamp or None
        Of what was predicted or, without predictions, of the file when the review began.
    """

    filename: str
    path: Path | None
    call: str = ""
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    bundle: str = ""
    found: Shown | None = None
    stamp: Stamp | None = None

    def seal(self) -> Stamp | None:
        """Return the stamp for an answer: with the hash of the file, unless it has changed."""
        if self.stamp is None or self.path is None:
            return self.stamp
        return self.stamp.sealed(self.path)

    @property
    def shown(self) -> Shown | None:
        """What is shown of it: the recording, otherwise the clip; None if neither was found."""
        return self.found or self.path


@dataclass(frozen=True)
class Run:
    """A folder that is reviewed, and its items in the order of the table or of the names."""

    folder: Path
    items: tuple[Item, ...]
    is_stack: bool = False  # whether they are the regions of a raw stack
    absent: str = NOT_FOUND  # what a reviewer should know of items that cannot be shown

    @property
    def stamps(self) -> dict[str, Stamp]:
        """The stamps of the items that have one, by filename."""
        return {item.filename: item.stamp for item in self.items if item.stamp is not None}

    @property
    def key(self) -> str:
        """What tells this run from others: pages refer to its items by number."""
        parts = [str(self.folder.resolve())]
        parts += (f"{item.filename}\0{item.path}" for item in self.items)
        return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


class Source(NamedTuple):
    """How predictions were made: with which bundle, of what, and for which prevalence."""

    predictions: Path
    bundle: str  # path
    recordings: tuple[str, ...]  # paths
    prevalence: float | None


def read(folder: Path, recordings: Sequence[Path] | None = None) -> Run:
    """Read what is to be reviewed.

    Parameters
    ----------
    folder : Path
        Output folder of ``stallscan predict``, or a folder of recordings.
    recordings : sequence of Path, optional
        Where the recordings are, or a store of their clips, if they have moved since the run.

    Raises
    ------
    InputError
        If there are neither predictions nor recordings, or `recordings` do not exist.
    TableError
        If the table of predictions is invalid.
    """
    if folder.is_file():
        raise InputError(f"{folder}: is a file. Name the folder that it is in: {folder.parent}")
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Name the output of 'stallscan predict', or a folder of "
            "recordings"
        )
    path = folder / PREDICTIONS_NAME
    if not path.is_file():
        if recordings:
            raise InputError(
                f"{folder}: has no {PREDICTIONS_NAME}, so --recordings is not for it. Name the "
                "folder of the recordings in its place"
            )
        sources = find.list_recordings([folder])
        items = tuple(
            Item(source.filename, source.path, stamp=Stamp.of(source.path)) for source in sources
        )
        return Run(folder, items)
    table = read_predictions(path)
    found = find_sources(table["filename"], read_run(path), recordings, path)
    stamps = read_stamps(path)
    items = tuple(
        Item(
            row["filename"],
            found.paths.get(row["filename"]),
            row["call"],
            without_path(row["reason"], row["filename"]),
            _number(row["score"]),
            _number(row["threshold"]),
            row["bundle"],
            found.shown(row["filename"]),
            stamps.get(row["filename"]),
        )
        for row in table.to_dict("records")
    )
    return Run(folder, items, found.is_stack, found.absent)


def _number(cell: float) -> float | None:
    return None if math.isnan(cell) else float(cell)


def read_source(folder: Path) -> Source:
    """Read how the predictions that were reviewed were made.

    Raises
    ------
    InputError
        If there are no predictions, or it is not recorded how they were made.
    """
    path = folder / PREDICTIONS_NAME
    if not path.is_file():
        raise InputError(
            f"{folder}: has no {PREDICTIONS_NAME}. Predict first: stallscan predict RECORDINGS -o "
            f"{folder}"
        )
    run = read_run(path)
    if "decision" in run:
        raise InputError(
            f"{folder}: holds calls of 'stallscan decide'. Name the output of 'stallscan predict' "
            f"that they were made from: {listed(run['decision'].get('tables', []))}"
        )
    bundle, recordings, prevalence = (
        run.get(name) for name in ("bundle_path", "paths", "prevalence")
    )
    if not isinstance(bundle, str) or not isinstance(recordings, list):
        raise InputError(
            f"{path}: {RUN_NAME} beside it does not say which bundle scored which recordings. Name "
            "the output of 'stallscan predict'"
        )
    return Source(
        path,
        bundle,
        tuple(map(str, recordings)),
        prevalence if isinstance(prevalence, float) else None,
    )
