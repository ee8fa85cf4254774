"""Recordings, calls and answers in the forms of other labelling tools: Label Studio and Panoptes.

Label Studio (checked with 1.23.2) imports a list of tasks with ``data``, ``predictions`` and
``annotations``. An annotation may name a member of the organisation by e-mail address only; any
other name makes Label Studio refuse the whole file, so it is left out and written beside the
answer. Panoptes, behind the Zooniverse, takes a manifest: a CSV table of files, whose other columns
are metadata. Volunteers do not see columns whose names begin with ``#``.
"""

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from stallscan import files
from stallscan.catalog import tables
from stallscan.errors import InputError
from stallscan.review import run
from stallscan.review.answers import ANSWERS, Answers, Given
from stallscan.review.labels import by_recording, decide
from stallscan.review.run import Item
from stallscan.runs import ANSWERS_NAME
from stallscan.words import printable

Format = Literal["csv", "label-studio", "panoptes"]
# Where Label Studio serves the files of its own computer; the path is relative to the root.
LOCAL_FILES = "/data/local-files/?d="
# Names in the labelling configuration (docs/reference/review.md).
CONTROL, OBJECT = "answer", "video"
# What browsers play.
PLAYED = (".mp4", ".m4v", ".mov", ".webm")
# The Panoptes command line refuses larger files.
MOST_BYTES = 1024 * 1024
# Of an empty cell; Panoptes takes it for the path of a folder.
NOTHING = "none"
NO_VOTES = {"#label": NOTHING, "#stalled_votes": 0, "#flowing_votes": 0}


class Exported(NamedTuple):
    """Summary of an export."""

    path: Path
    recordings: int
    answers: int  # written
    missing: int  # recordings left out because they were not found
    unplayed: int  # recordings in a form that browsers do not play
    large: int  # recordings that the Panoptes command line refuses

    def __str__(self) -> str:
        text = f"{self.recordings:,} recordings, {self.answers:,} answers"
        for count, words in (
            (self.missing, "not found and left out"),
            (self.unplayed, "in a form that browsers do not play (convert to mp4)"),
            (self.large, "larger than 1 MiB, which the Panoptes command line refuses"),
        ):
            if count:
                text += f"; {count:,} {words}"
        return text


def write_label_studio(folder: Path, out: Path, address: str | None = None) -> Exported:
    """Write all recordings, calls and current answers as tasks for Label Studio.

    Parameters
    ----------
    folder : Path
        As `run.read` takes it; there need not be answers.
    out : Path
        The JSON file.
    address : str, optional
        Beginning of the recordings' addresses, to which the filename is added. By default,
        Label Studio is to serve them from where they are.

    Raises
    ------
    InputError
        If there is nothing to export, or the file cannot be written.
    """
    items, answers = _read(folder)
    kept = [item for item in items if item.path is not None or address is not None]
    _refuse_none(folder, kept)
    head = f'[\n  {{\n    "data": {{\n      "{OBJECT}": "'
    files.refuse_foreign(out, [head], "an export of 'stallscan labels'")
    tasks = [
        _task(number, item, answers[item.filename], _address(item, address))
        for number, item in enumerate(kept)
    ]
    files.write_json(out, tasks)
    return _exported(out, items, kept, answers)


def write_panoptes(folder: Path, out: Path) -> Exported:
    """Write all recordings with calls and current answers as a manifest for Panoptes.

    Parameters
    ----------
    folder, out
        As in `write_label_studio`; `out` is a CSV file. Paths in it are relative to its folder.

    Raises
    ------
    InputError
        As from `write_label_studio`.
    """
    items, answers = _read(folder)
    decided = decide([given for every in answers.values() for given in every], "majority")
    votes = {row["filename"]: _describe(row) for row in decided.to_dict("records")}
    kept = [item for item in items if item.path is not None]
    _refuse_none(folder, kept)
    files.refuse_foreign(out, ["file,#filename,"], "a manifest of 'stallscan labels'")
    rows = [
        {
            "file": _relative(item.path, out.parent),
            "#filename": item.filename,
            "#call": item.call or NOTHING,
            "#score": NOTHING if item.score is None else item.score,
            "#threshold": NOTHING if item.threshold is None else item.threshold,
            "#bundle": item.bundle or NOTHING,
            **votes.get(item.filename, NO_VOTES),
        }
        for item in kept
        if item.path is not None
    ]
    tables.write_table(pd.DataFrame(rows), out)
    large = sum(item.path is not None and item.path.stat().st_size > MOST_BYTES for item in kept)
    return _exported(out, items, kept, answers)._replace(large=large)


def _read(folder: Path) -> tuple[Sequence[Item], dict[str, list[Given]]]:
    """Read the items, and the current answers of each but those that check a reviewer."""
    items = run.read(folder).items
    return items, by_recording(
        Answers(folder).current() if (folder / ANSWERS_NAME).is_file() else ()
    )


def _refuse_none(folder: Path, kept: Sequence[Item]) -> None:
    if not kept:
        raise InputError(
            f"{folder}: none of its recordings was found. Put them back where they were at the "
            "prediction"
        )


def _exported(
    out: Path, items: Sequence[Item], kept: Sequence[Item], answers: dict[str, list[Given]]
) -> Exported:
    return Exported(
        out,
        recordings=len(kept),
        answers=sum(len(answers[item.filename]) for item in kept),
        missing=len(items) - len(kept),
        unplayed=sum(not item.filename.lower().endswith(PLAYED) for item in kept),
        large=0,
    )


def _task(number: int, item: Item, answers: Sequence[Given], address: str) -> dict[str, Any]:
    said = "; ".join(f"{given.reviewer}: {given.answer}" for given in answers)
    data = {OBJECT: address, "filename": item.filename, "reason": item.reason, "answers": said}
    predictions = []
    if item.call:
        # A call left to a person is what reviewers call unsure.
        choice = item.call if item.call in ANSWERS else "unsure"
        prediction = {"model_version": item.bundle, "result": [_result(f"call-{number}", choice)]}
        predictions = [prediction | ({} if item.score is None else {"score": item.score})]
    return {
        "data": data,
        "predictions": predictions,
        "annotations": [_annotation(given) for given in answers],
    }


def _annotation(given: Given) -> dict[str, Any]:
    result = _result(f"answer-{given.id}", given.answer) | {"meta": {"text": [given.reviewer]}}
    # Without this, Label Studio takes every imported annotation for a ground truth.
    annotation: dict[str, Any] = {"result": [result], "ground_truth": False}
    if "@" in given.reviewer:
        annotation["completed_by"] = {"email": given.reviewer}
    return annotation


def _result(name: str, choice: str) -> dict[str, Any]:
    return {
        "id": name,
        "from_name": CONTROL,
        "to_name": OBJECT,
        "type": "choices",
        "value": {"choices": [choice]},
    }


def _address(item: Item, address: str | None) -> str:
    if address is not None:
        return address + urllib.parse.quote(item.filename)
    assert item.path is not None
    path = item.path.resolve()
    # As bytes, because a name need not be valid UTF-8.
    return LOCAL_FILES + urllib.parse.quote(os.fsencode(path.relative_to(path.anchor).as_posix()))


def _relative(path: Path | None, folder: Path) -> str:
    assert path is not None
    path = path.resolve()
    try:
        name = Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        name = path.as_posix()
    if printable(name) != name:
        raise InputError(
            f"{path}: a manifest cannot hold this name, which is not valid text on one line. "
            "Rename the file, and predict again"
        )
    return name


def _describe(row: dict[Any, Any]) -> dict[str, Any]:
    """Return the columns for a row of `labels.decide`."""
    label = {1: "stalled", 0: "flowing"}.get(row["stalled"], NOTHING)
    return {"#label": label} | {
        f"#{name}": row[name] for name in ("stalled_votes", "flowing_votes")
    }
