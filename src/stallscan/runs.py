"""One run in one folder: who writes into it, what run it holds, what its files are called."""

import contextlib
import datetime
import json
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

from stallscan import files
from stallscan.errors import InputError
from stallscan.words import listed

# What predict writes a row of for each recording, and train for each epoch.
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
# The table itself, and what is noted beside it: of the run, and which recordings chose a threshold.
PREDICTIONS_NAME = "predictions.csv"
RUN_NAME = "run.json"
TRAITS_NAME = "traits.csv"
SOURCES_NAME = "sources.csv"
CHOSEN_NAME = "chosen_on.csv"
# What decide writes in the competition's form.
SUBMISSION_NAME = "submission.csv"
# What train leaves: the recordings held back, with their scores, of one training and of all folds.
HELD_OUT_NAME, OUT_OF_FOLD_NAME = "validation.csv", "out_of_fold.csv"
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

# The system frees the lock when its owner ends, however it does; the other file says who that is.
LOCK_NAME, OWNER_NAME = ".stallscan.lock", ".stallscan.owner.json"
# Of a command, in a message.
COMMAND_CHARACTERS = 120
# Of settings that differ, in a message.
DIFFERENCES_NAMED = 3

# Why a recording is done or not when a run is resumed.
Why = Literal["new", "changed", "again", "kept", "unknown"]

log = logging.getLogger("stallscan")


@contextlib.contextmanager
def hold(folder: str | Path) -> Iterator[Path]:
    """Be the only writer of an output folder, which is made if it is missing.

    Raises
    ------
    InputError
        If another process, or another thread of this one, writes into the folder, or it cannot be
        written. Nothing in it was touched then.
    """
    folder = files.make_folder(folder)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{folder}: {_owner(folder)} writes into this folder. Wait until it ends, or choose "
            "another folder with -o"
        ) from None
    except PermissionError as error:
        raise files.unwritable(folder / LOCK_NAME, error) from error
    except (OSError, NotImplementedError) as error:
        log.warning(
            "%s: this disk knows no locks (%s); see that nothing else writes into it", folder, error
        )
    owner = folder / OWNER_NAME
    try:
        files.write_json(owner, _describe_process())
        yield folder
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def claim(
    note: Path, now: Mapping[str, Any], kind: str, outputs: Iterable[str] = ()
) -> dict[str, Any] | None:
    """Note in a folder what its run is; refuse a folder that holds another one.

    Parameters
    ----------
    note : Path
        The file for it, JSON or YAML by its suffix, in the folder of the run.
    now : mapping
        Settings of the run, which may be nested, in types of JSON.
    kind : str
        What it is, in the words of a message: ``a simulation``.
    outputs : iterable of str
        Files and folders that the run makes: without a note they are not of such a run.

    Returns
    -------
    dict or None
        What was noted before; None where the run is new.

    Raises
    ------
    InputError
        If the folder holds another run, or what is noted cannot be read.
    """
    before = read_note(note, kind)
    if before is not None:
        refuse_other(note.parent, before, now, kind)
        return before
    if other := next((name for name in outputs if (note.parent / name).exists()), None):
        raise InputError(
            f"{note.parent}: holds {other}, but no {note.name} that says that it is of {kind}. "
            "Choose another folder with -o"
        )
    if note.suffix == ".yaml":
        files.write_text(note, yaml.safe_dump(dict(now), sort_keys=False))
    else:
        files.write_json(note, now)
    return None


def read_note(note: Path, kind: str) -> dict[str, Any] | None:
    """Read what is noted of a run; None where nothing is.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        text = note.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if note.suffix == ".yaml" else json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("not a list of settings")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{note}: not readable as the settings of {kind} ({' '.join(str(error).split())}). "
            "Choose another folder with -o, or remove this one"
        ) from None
    return content


def refuse_other(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], kind: str
) -> None:
    """Refuse a folder whose run has other settings, and name them.

    Raises
    ------
    InputError
        If they differ.
    """
    if found := differences(before, now):
        named = listed(found, DIFFERENCES_NAMED, separator="; ")
        raise InputError(
            f"{folder}: holds {kind} with other settings ({named}). Choose another folder with -o, "
            "or remove this one"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name each setting that has another value now."""
    was, is_ = flatten(before), flatten(now)
    return [
        f"{name} was {was.get(name, 'not set')}, now {is_.get(name, 'not set')}"
        for name in dict.fromkeys([*was, *is_])
        if was.get(name) != is_.get(name)
    ]


def flatten(content: Any, above: str = "") -> dict[str, str]:
    """Name each setting of nested mappings and lists by its dotted name, its value in words."""
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    flat: dict[str, str] = {}
    for name, value in pairs:
        inside = isinstance(value, Mapping) or (
            isinstance(value, list) and value and isinstance(value[0], Mapping)
        )
        if inside:
            flat |= flatten(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = (
                ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return flat


def say_resumed(counts: Mapping[Why, int], removed: int = 0) -> str:
    """Say in one line what a run that was begun before does now.

    Parameters
    ----------
    counts : mapping
        Recordings: ``new``; ``changed`` since; tried ``again``, because they could not be read;
        ``kept``; kept, but it is ``unknown`` whether they have changed.
    removed : int
        Rows of recordings that are not given any more.
    """
    words = {"new": "not done before", "changed": "replaced since", "again": "not readable before"}
    done = {name: counts.get(name, 0) for name in ("new", "changed", "again")}
    total, todo = sum(counts.values()), sum(done.values())
    unknown, gone = counts.get("unknown", 0), f"{removed} rows of recordings that are gone removed"
    if todo:
        reasons = ", ".join(f"{count} {words[name]}" for name, count in done.items() if count)
        said = [f"{todo} of {total} recordings are done now ({reasons})"]
    else:
        said = [f"nothing to do, all {total} recordings were done before"]
        if not unknown:
            said[0] += " and have not changed"
    if removed:
        said.append(gone)
    if unknown:
        said.append(
            f"whether {unknown} were replaced since is not known, an older version did them"
        )
    return "; ".join(said)


def _describe_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _owner(folder: Path) -> str:
    """Name who holds the lock, as far as it has said so."""
    try:
        said = json.loads((folder / OWNER_NAME).read_text(encoding="utf-8"))
        command = str(said["command"])[:COMMAND_CHARACTERS]
        return f"process {said['pid']} on {said['host']} ({command}, since {said['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
