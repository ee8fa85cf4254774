"""Run folders: one writer at a time, one run per folder, and the names of its files."""

import contextlib
import datetime
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from stallscan import documents, files
from stallscan.errors import InputError
from stallscan.words import listed

# Columns of predictions.csv: a row for each recording.
PREDICTION_COLUMNS = (
    "filename",
    "status",
    "reason",
    "frames",
    "frames_declared",
    "score",
    "call",
    "threshold",
    "bundle",
)
# The table of predictions, and the files beside it: settings of the run, traits and stamps of the
# recordings, and the recordings whose labels chose the threshold.
PREDICTIONS_NAME = "predictions.csv"
RUN_NAME = "run.json"
TRAITS_NAME = "traits.csv"
SOURCES_NAME = "sources.csv"
CHOSEN_NAME = "chosen_on.csv"
# The answers of a review, beside the predictions or in a folder of recordings.
ANSWERS_NAME = "review.sqlite"
# What 'stallscan evaluate' measured.
METRICS_NAME = "metrics.json"
# Beside predictions.csv where regions of a raw stack were called: how it was read, and their clips.
STACK_NAME = "stack.json"
CLIPS_NAME = "clips"
# How a time series at one depth was read; no predictions are beside it.
SERIES_NAME = "series.json"
# In the column reason of a recording on which no figure may be measured.
LEARNED = "the bundle has learned from this recording"
# Output of decide in the competition's format.
SUBMISSION_NAME = "submission.csv"
# Scores of the held-out recordings: of one training, and of all folds.
HELD_OUT_NAME, OUT_OF_FOLD_NAME = "validation.csv", "out_of_fold.csv"
# Columns of history.csv: a row for each epoch of training.
HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_mcc",
    "val_accuracy",
    "val_roc_auc",
    "val_pr_auc",
    "lr",
)

# The system releases the lock even if its owner is killed; the other file names the owner.
LOCK_NAME, OWNER_NAME = ".stallscan.lock", ".stallscan.owner.json"
# Maximum length of a command in a message.
COMMAND_CHARACTERS = 120
# Maximum number of changed settings in a message.
DIFFERENCES_NAMED = 3

# What a resumed run does with a recording, and why; see `say_resumed`.
Why = Literal["new", "changed", "again", "kept", "unknown"]

log = logging.getLogger("stallscan")


class HeldError(InputError):
    """Another process, or another thread of this one, holds a folder."""

    def __init__(self, folder: Path | str, owner: str) -> None:
        super().__init__(
            f"{folder}: {owner} is writing to this folder. Wait until it ends, or choose another "
            "folder with -o"
        )
        self.owner = owner


@contextlib.contextmanager
def hold(folder: str | Path) -> Iterator[Path]:
    """Lock an output folder for a single writer; create it if it is missing.

    Raises
    ------
    InputError
        If another process, or another thread of this one, holds the folder (`HeldError`), or it is
        not writable. The folder is unchanged then.
    """
    folder = files.make_folder(folder)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise HeldError(folder, _owner(folder)) from None
    # The last two: another process has removed the folder meanwhile.
    except (PermissionError, FileNotFoundError, FileExistsError) as error:
        raise files.unwritable(folder / LOCK_NAME, error) from error
    except (OSError, NotImplementedError) as error:
        log.warning(
            "%s: this disk does not support locks (%s). Do not run another command on this folder",
            folder,
            error,
        )
    owner = folder / OWNER_NAME
    try:
        files.write_json(owner, describe_process())
        yield folder
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def has_died(folder: Path) -> bool:
    """Return whether the last process that held a folder did not end, or holds it still."""
    return (folder / OWNER_NAME).is_file()


def holder(folder: Path) -> str:
    """Describe the process that holds a folder; empty if none does, or nobody can tell."""
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return _owner(folder)
    except (OSError, NotImplementedError):
        return ""
    lock.release()
    return ""


def claim(
    note: Path, now: Mapping[str, Any], kind: str, outputs: Iterable[str] = ()
) -> dict[str, Any] | None:
    """Record the settings of a run in its folder; refuse a folder with another run.

    Parameters
    ----------
    note : Path
        File for the settings, JSON or YAML by its suffix, in the run folder.
    now : mapping
        Settings of the run, possibly nested, of JSON types.
    kind : str
        Description of such a run for messages: ``a simulation``.
    outputs : iterable of str
        Files and folders that such a run creates. If one exists without a note, the folder is
        refused.

    Returns
    -------
    dict or None
        The settings recorded earlier; None for a new run.

    Raises
    ------
    InputError
        If the folder contains another run, or its note cannot be read.
    """
    before = read_note(note, kind)
    if before is not None:
        refuse_other(note.parent, before, now, kind)
        return before
    if other := next((name for name in outputs if (note.parent / name).exists()), None):
        raise InputError(
            f"{note.parent}: holds {other} but no {note.name}, so it is not from {kind}. Choose "
            "another folder with -o"
        )
    if note.suffix == ".yaml":
        files.write_text(note, yaml.safe_dump(dict(now), sort_keys=False))
    else:
        files.write_json(note, now)
    return None


def read_note(note: Path, kind: str) -> dict[str, Any] | None:
    """Read the settings that `claim` recorded; None if there are none.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        is_yaml = note.suffix == ".yaml"
        content = documents.read_yaml(note) if is_yaml else documents.read_json(note)
        if not isinstance(content, dict):
            raise ValueError("not a list of settings")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{note}: not readable as the settings of {kind} ({error}). "
            "Choose another folder with -o, or remove this one"
        ) from None
    return content


def refuse_other(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], kind: str
) -> None:
    """Raise an InputError that names the changed settings, if there are any."""
    if changed := differences(before, now):
        named = listed(changed, DIFFERENCES_NAMED, separator="; ")
        raise InputError(
            f"{folder}: holds {kind} with other settings ({named}). Choose another folder with -o, "
            "or remove this one"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the settings whose values have changed, with old and new value."""
    old, new = flatten(before), flatten(now)
    return [
        f"{name} was {old.get(name, 'not set')}, now {new.get(name, 'not set')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def flatten(content: Any, above: str = "") -> dict[str, str]:
    """Flatten nested settings into dotted names and values as text."""
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    flat: dict[str, str] = {}
    for name, value in pairs:
        is_nested = isinstance(value, Mapping) or (
            isinstance(value, list) and value and isinstance(value[0], Mapping)
        )
        if is_nested:
            flat |= flatten(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = (
                ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return flat


def say_resumed(counts: Mapping[Why, int], removed: int = 0) -> str:
    """Summarise in one line what a resumed run will do.

    Parameters
    ----------
    counts : mapping
        Number of recordings that are ``new``, that have ``changed``, that are tried ``again``
        because they were unreadable, that are ``kept``, and that are kept although it is
        ``unknown`` whether they have changed.
    removed : int
        Rows removed because their recordings are no longer given.
    """
    reasons: dict[Why, str] = {"new": "new", "changed": "changed", "again": "unreadable before"}
    todo = {reason: counts[why] for why, reason in reasons.items() if counts.get(why)}
    total, unknown = sum(counts.values()), counts.get("unknown", 0)
    if todo:
        named = ", ".join(f"{count} {reason}" for reason, count in todo.items())
        said = [f"{sum(todo.values())} of {total} recordings to process ({named})"]
    else:
        said = [f"nothing to do, all {total} recordings were processed before"]
        if not unknown:
            said[0] += " and have not changed"
    if removed:
        said.append(f"{removed} rows of recordings that are no longer given removed")
    if unknown:
        said.append(
            f"{unknown} were processed by an older version, so it is unknown whether they have "
            "changed"
        )
    return "; ".join(said)


def describe_process() -> dict[str, Any]:
    """Return what identifies this process to a person on another machine."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _owner(folder: Path) -> str:
    """Describe the process that holds the lock, as far as the owner file is readable."""
    try:
        return say_process(documents.read(folder / OWNER_NAME, documents.JSON_BYTES))
    except (OSError, ValueError):
        return "another process"


def say_process(note: bytes) -> str:
    """Describe a process for a message, from the JSON of `describe_process`."""
    try:
        owner = documents.parse_json(note)
        command = str(owner["command"])[:COMMAND_CHARACTERS]
        return f"process {owner['pid']} on {owner['host']} ({command}, since {owner['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
